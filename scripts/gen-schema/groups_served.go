//go:build !newest

package main

import (
	autoscalingv2beta1 "k8s.io/api/autoscaling/v2beta1"
	autoscalingv2beta2 "k8s.io/api/autoscaling/v2beta2"
	schedulingv1alpha1 "k8s.io/api/scheduling/v1alpha1"
	storagemigrationv1alpha1 "k8s.io/api/storagemigration/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
)

// releaseGroups are those that one release alone has.
var releaseGroups = []func(*runtime.Scheme) error{
	autoscalingv2beta1.AddToScheme,
	autoscalingv2beta2.AddToScheme,
	schedulingv1alpha1.AddToScheme,
	storagemigrationv1alpha1.AddToScheme,
}

const modFile = "go.mod"
