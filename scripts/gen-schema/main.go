// Command gen-schema writes the type table of the Kubernetes API: one line for each field, made
// of facts alone (names, protobuf numbers, list and merge keys, defaults, enumerations). It reads
// the types that the published Go modules register, by reflection, and the markers in their
// comments, from the module sources.
//
// The table holds the union of two releases: run it once with the modules of the served release
// and -dump, then with the newest modules and -served. What only the newest release has is marked
// with a plus sign.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Table is everything the generator finds out.
type Table struct {
	Modules []string
	Kinds   map[string]map[string]string // group/version -> kind -> reference
	Types   map[string]map[string]*Type  // OpenAPI package -> type name -> type
	GoNames map[string]string            // OpenAPI package -> Go package name
}

// Type is a named type: a struct, a special type, or a name for another kind.
type Type struct {
	Alias   string   `json:",omitempty"`
	Items   bool     `json:",omitempty"` // a list that protobuf wraps into a message
	Special string   `json:",omitempty"`
	Atomic  bool     `json:",omitempty"`
	List    string   `json:",omitempty"`
	Enum    []string `json:",omitempty"`
	Fields  []Field  `json:",omitempty"`
	newer   bool
}

// Field is a struct field as it stands in the table.
type Field struct {
	Name   string // "." for an embedded struct that JSON flattens
	Number int
	Kind   string
	Flags  []string `json:",omitempty"`
	newer  bool
}

func main() {
	log.SetFlags(0)
	dump := flag.String("dump", "", "write what was found as JSON and stop")
	served := flag.String("served", "", "the JSON of the served release")
	out := flag.String("out", "", "the table")
	flag.Parse()

	table := collect()
	if *dump != "" {
		data, err := json.Marshal(table)
		check(err)
		check(os.WriteFile(*dump, data, 0o644))
		return
	}
	base := &Table{}
	data, err := os.ReadFile(*served)
	check(err)
	check(json.Unmarshal(data, base))
	merge(base, table)
	check(write(*out, base, table.Modules))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// collect walks every registered type.
func collect() *Table {
	scheme := runtime.NewScheme()
	for _, add := range append(groups, releaseGroups...) {
		check(add(scheme))
	}
	meta := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, meta)
	check(metav1.AddMetaToScheme(scheme))
	scheme.AddUnversionedTypes(meta, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{},
		&metav1.APIGroup{}, &metav1.APIResourceList{})

	table := &Table{
		Modules: modules(),
		Kinds:   map[string]map[string]string{},
		Types:   map[string]map[string]*Type{},
		GoNames: map[string]string{},
	}
	walker := &walker{table: table, sources: map[string]*source{}}
	for gvk, goType := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || skipped[gvk.Kind] {
			continue
		}
		name := gvk.GroupVersion().String()
		if options[gvk.Kind] && name != "v1" {
			continue // registered with every version; the reader knows
		}
		if table.Kinds[name] == nil {
			table.Kinds[name] = map[string]string{}
		}
		table.Kinds[name][gvk.Kind] = walker.named(goType)
	}
	return table
}

// Tables are made by the server and never read.
var skipped = map[string]bool{"Table": true, "TableOptions": true}

// options are registered in every group version.
var options = map[string]bool{
	"CreateOptions": true, "DeleteOptions": true, "GetOptions": true, "ListOptions": true,
	"PatchOptions": true, "UpdateOptions": true, "WatchEvent": true,
}

func modules() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		log.Fatal("no build information")
	}
	var list []string
	for _, module := range info.Deps {
		switch module.Path {
		case "k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator", "k8s.io/metrics":
			list = append(list, module.Path+" "+module.Version)
		}
	}
	return list
}

// merge adds what only `newest` has to `base`, marked as newer.
func merge(base, newest *Table) {
	for name, types := range newest.Types {
		if base.Types[name] == nil {
			base.Types[name] = map[string]*Type{}
			base.GoNames[name] = newest.GoNames[name]
		}
		for typeName, newType := range types {
			old := base.Types[name][typeName]
			if old == nil {
				newType.newer = true
				base.Types[name][typeName] = newType
				continue
			}
			known := map[string]bool{}
			for _, field := range old.Fields {
				known[field.Name+"/"+embedded(field)] = true
			}
			for _, field := range newType.Fields {
				if !known[field.Name+"/"+embedded(field)] {
					field.newer = true
					old.Fields = append(old.Fields, field)
				}
			}
		}
	}
	for name, kinds := range newest.Kinds {
		if base.Kinds[name] == nil {
			base.Kinds[name] = map[string]string{}
		}
		for kind, reference := range kinds {
			if base.Kinds[name][kind] == "" {
				base.Kinds[name][kind] = "+" + reference
			}
		}
	}
}

func embedded(field Field) string {
	if field.Name == "." {
		return field.Kind
	}
	return ""
}

// write prints the table; references are shortened to bare names inside their own package and to
// number:name outside it.
func write(path string, table *Table, newest []string) error {
	packages := sortedKeys(table.Types)
	number := map[string]int{}
	for i, name := range packages {
		number[name] = i
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(file)
	fmt.Fprintf(out, "# Facts of the Kubernetes API, made by scripts/gen-schema.sh; the format is told in src/schema/parse.rs.\n")
	fmt.Fprintf(out, "# served: %s\n# newest: %s\n", strings.Join(table.Modules, ", "), strings.Join(newest, ", "))
	for i, name := range packages {
		fmt.Fprintf(out, "package %d %s %s\n", i, name, table.GoNames[name])
	}
	short := func(kind, home string) string {
		prefix := strings.TrimRight(kind[:len(kind)-len(strings.TrimLeft(kind, "+*[]{}"))], "")
		bare := kind[len(prefix):]
		dot := strings.LastIndex(bare, ".")
		if dot < 0 {
			return kind
		}
		owner, name := bare[:dot], bare[dot+1:]
		if owner == home {
			return prefix + name
		}
		return fmt.Sprintf("%s%d:%s", prefix, number[owner], name)
	}
	for _, groupVersion := range sortedKeys(table.Kinds) {
		fmt.Fprintf(out, "kinds %s", groupVersion)
		kinds := table.Kinds[groupVersion]
		owners := map[string]int{}
		for _, reference := range kinds {
			owners[strings.TrimPrefix(reference[:strings.LastIndex(reference, ".")], "+")]++
		}
		home := ""
		for _, owner := range sortedKeys(owners) {
			if home == "" || owners[owner] > owners[home] {
				home = owner
			}
		}
		fmt.Fprintf(out, " %d", number[home])
		for _, kind := range sortedKeys(kinds) {
			reference := short(kinds[kind], home)
			plus := ""
			if strings.HasPrefix(reference, "+") {
				plus, reference = "+", reference[1:]
			}
			if reference == kind {
				fmt.Fprintf(out, " %s%s", plus, kind)
			} else {
				fmt.Fprintf(out, " %s%s=%s", plus, kind, reference)
			}
		}
		fmt.Fprintln(out)
	}
	for _, name := range packages {
		fmt.Fprintf(out, "in %d\n", number[name])
		for _, typeName := range sortedKeys(table.Types[name]) {
			entry := table.Types[name][typeName]
			line := "type " + typeName
			if entry.newer {
				line = "+type " + typeName
			}
			switch {
			case entry.Special != "":
				line += " special " + entry.Special
			case entry.Items:
				line += " items " + short(entry.Alias, name)
			case entry.Alias != "":
				line += " is " + short(entry.Alias, name)
			}
			if entry.Atomic {
				line += " atomic"
			}
			if entry.List != "" {
				line += " list=" + entry.List
			}
			if len(entry.Enum) > 0 {
				line += " enum=" + strings.Join(entry.Enum, "|")
			}
			fmt.Fprintln(out, line)
			for _, field := range entry.Fields {
				mark := " "
				if field.newer {
					mark = "+"
				}
				parts := append([]string{field.Name, fmt.Sprint(field.Number), short(field.Kind, name)}, field.Flags...)
				fmt.Fprintf(out, "%s%s\n", mark, strings.Join(parts, " "))
			}
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return file.Close()
}

func sortedKeys[V any](values map[string]V) []string {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// walker turns Go types into entries of the table.
type walker struct {
	table   *Table
	sources map[string]*source
}

// named enters a named type and returns its full name.
func (w *walker) named(goType reflect.Type) string {
	pkg := openAPIPackage(goType.PkgPath())
	full := pkg + "." + goType.Name()
	if w.table.Types[pkg] == nil {
		w.table.Types[pkg] = map[string]*Type{}
		name, _, _ := strings.Cut(goType.String(), ".")
		w.table.GoNames[pkg] = name
	}
	if w.table.Types[pkg][goType.Name()] != nil {
		return full
	}
	entry := &Type{}
	w.table.Types[pkg][goType.Name()] = entry
	source := w.source(goType.PkgPath())
	markers := source.types[goType.Name()]
	entry.Atomic = slices.Contains(markers["structType"], "atomic") || slices.Contains(markers["mapType"], "atomic")
	if list := markers["listType"]; len(list) > 0 {
		entry.List = list[0]
	}
	if special := specials[goType.Name()]; special.pkg == goType.PkgPath() ||
		(special.pkg != "" && special.pkg == strings.TrimSuffix(goType.PkgPath(), "beta1")) {
		entry.Special = special.name
		if goType.Kind() == reflect.Struct && strings.HasPrefix(special.name, "schema") {
			schema, _ := goType.FieldByName("Schema")
			w.named(schema.Type.Elem())
		}
		return full
	}
	if reflect.PointerTo(goType).Implements(unmarshaler) {
		log.Fatalf("%s reads JSON in a way of its own; teach the generator and the codec", full)
	}
	if goType.Kind() != reflect.Struct {
		entry.Items = hasMethod(goType, "Marshal") && goType.Kind() == reflect.Slice
		entry.Alias = w.underlying(goType)
		if _, isEnum := markers["enum"]; isEnum {
			entry.Enum = source.constants[goType.Name()]
		}
		return full
	}
	entry.Fields = w.fields(goType, source)
	return full
}

type special struct{ pkg, name string }

var specials = map[string]special{
	"Time":                         {"k8s.io/apimachinery/pkg/apis/meta/v1", "time"},
	"MicroTime":                    {"k8s.io/apimachinery/pkg/apis/meta/v1", "microTime"},
	"Duration":                     {"k8s.io/apimachinery/pkg/apis/meta/v1", "duration"},
	"FieldsV1":                     {"k8s.io/apimachinery/pkg/apis/meta/v1", "fieldsV1"},
	"Quantity":                     {"k8s.io/apimachinery/pkg/api/resource", "quantity"},
	"IntOrString":                  {"k8s.io/apimachinery/pkg/util/intstr", "intOrString"},
	"RawExtension":                 {"k8s.io/apimachinery/pkg/runtime", "rawExtension"},
	"JSON":                         {"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "json"},
	"JSONSchemaPropsOrArray":       {"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "schemaOrArray"},
	"JSONSchemaPropsOrBool":        {"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "schemaOrBool"},
	"JSONSchemaPropsOrStringArray": {"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "schemaOrStrings"},
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func hasMethod(goType reflect.Type, name string) bool {
	_, found := reflect.PointerTo(goType).MethodByName(name)
	return found
}

// openAPIPackage turns k8s.io/api/core/v1 into io.k8s.api.core.v1.
func openAPIPackage(path string) string {
	host, rest, _ := strings.Cut(path, "/")
	parts := strings.Split(host, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".")
}

// kind spells a type: a builtin, a full type name, or either behind * (pointer), [] and {}.
func (w *walker) kind(goType reflect.Type) string {
	if goType.Name() != "" && goType.PkgPath() != "" {
		return w.named(goType)
	}
	return w.underlying(goType)
}

func (w *walker) underlying(goType reflect.Type) string {
	switch goType.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Float64:
		return goType.Kind().String()
	case reflect.Pointer:
		return "*" + w.kind(goType.Elem())
	case reflect.Slice:
		if goType.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + w.kind(goType.Elem())
	case reflect.Map:
		if goType.Key().Kind() != reflect.String {
			log.Fatalf("map key %s", goType)
		}
		return "{}" + w.kind(goType.Elem())
	}
	log.Fatalf("no word for the type %s", goType)
	return ""
}
