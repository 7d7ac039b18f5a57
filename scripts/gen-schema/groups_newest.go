//go:build newest

package main

import (
	lifecyclev1alpha1 "k8s.io/api/lifecycle/v1alpha1"
	schedulingv1alpha3 "k8s.io/api/scheduling/v1alpha3"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
)

// releaseGroups are those that one release alone has.
var releaseGroups = []func(*runtime.Scheme) error{
	lifecyclev1alpha1.AddToScheme,
	schedulingv1alpha3.AddToScheme,
	storagemigrationv1.AddToScheme,
	storagemigrationv1beta1.AddToScheme,
	metricsv1.AddToScheme,
}

const modFile = "newest.mod"
