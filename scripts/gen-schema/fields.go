package main

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// fields reads the tags and markers of a struct.
func (w *walker) fields(goType reflect.Type, source *source) []Field {
	var fields []Field
	for i := range goType.NumField() {
		goField := goType.Field(i)
		tag := strings.Split(goField.Tag.Get("json"), ",")
		if tag[0] == "-" || !goField.IsExported() {
			continue
		}
		field := Field{Name: tag[0], Kind: w.kind(goField.Type)}
		if proto := strings.Split(goField.Tag.Get("protobuf"), ","); len(proto) > 1 {
			number, err := strconv.Atoi(proto[1])
			check(err)
			field.Number = number
		}
		if goField.Anonymous && tag[0] == "" {
			field.Name = "."
			fields = append(fields, field)
			continue
		}
		if tag[0] == "" || slices.Contains(tag[1:], "string") {
			log.Fatalf("%s.%s has a tag that the table has no word for", goType, goField.Name)
		}
		markers := source.fields[goType.Name()+"."+goField.Name]
		empty, zero := slices.Contains(tag[1:], "omitempty"), slices.Contains(tag[1:], "omitzero")
		switch {
		case zero:
			field.flag("zero")
		case !empty:
			field.flag("keep")
		}
		// The rule of kube-openapi: a marker decides, else the tag.
		required := !empty
		if _, found := markers["required"]; found {
			required = true
		} else if _, found := markers["optional"]; found {
			required = false
		}
		if required && empty {
			field.flag("required")
		} else if !required && !empty {
			field.flag("optional")
		}
		list := markers["listType"]
		switch keys := markers["listMapKey"]; {
		case len(list) == 0:
		case list[0] == "map":
			field.flag("map=" + strings.Join(keys, ","))
		default:
			field.flag(list[0])
		}
		for _, kind := range append(markers["mapType"], markers["structType"]...) {
			field.flag("struct=" + kind)
		}
		if strategy := goField.Tag.Get("patchStrategy"); strategy != "" {
			field.flag("patch=" + strategy)
		}
		if key := goField.Tag.Get("patchMergeKey"); key != "" {
			field.flag("key=" + key)
		}
		for _, marker := range markers["default"] {
			field.flag("default=" + defaultValue(marker, source, goType))
		}
		fields = append(fields, field)
	}
	return fields
}

func (f *Field) flag(text string) {
	if strings.ContainsAny(text, " \t\n") {
		log.Fatalf("%s: a flag with a space in it: %q", f.Name, text)
	}
	f.Flags = append(f.Flags, text)
}

// defaultValue gives the JSON of a +default marker; ref(Name) stands for a constant.
func defaultValue(marker string, source *source, goType reflect.Type) string {
	if name, found := strings.CutPrefix(marker, "ref("); found {
		name = strings.TrimSuffix(name, ")")
		value, known := source.values[name[strings.LastIndex(name, ".")+1:]]
		if !known {
			log.Fatalf("%s: no constant %s", goType, name)
		}
		return value
	}
	var compact bytes.Buffer
	check(json.Compact(&compact, []byte(marker)))
	return compact.String()
}

// source holds the markers of one package.
type source struct {
	types     map[string]map[string][]string // type -> marker -> values
	fields    map[string]map[string][]string // type.Field -> marker -> values
	constants map[string][]string            // type -> values of its string constants, sorted
	values    map[string]string              // constant -> JSON
}

func (w *walker) source(path string) *source {
	if known := w.sources[path]; known != nil {
		return known
	}
	out, err := exec.Command("go", "list", "-modfile="+modFile, "-f", "{{.Dir}}", path).Output()
	if err != nil {
		log.Fatalf("go list %s: %v", path, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	check(err)
	result := &source{
		types: map[string]map[string][]string{}, fields: map[string]map[string][]string{},
		constants: map[string][]string{}, values: map[string]string{},
	}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "generated.pb.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		check(err)
		imports := map[string]string{}
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			check(err)
			if spec.Name != nil {
				imports[spec.Name.Name] = path
			}
		}
		for _, declaration := range file.Decls {
			if general, ok := declaration.(*ast.GenDecl); ok {
				w.read(result, general, imports)
			}
		}
	}
	for _, values := range result.constants {
		slices.Sort(values)
	}
	w.sources[path] = result
	return result
}

func (w *walker) read(s *source, declaration *ast.GenDecl, imports map[string]string) {
	for _, spec := range declaration.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			doc := spec.Doc
			if doc == nil {
				doc = declaration.Doc
			}
			s.types[spec.Name.Name] = markers(doc)
			structType, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range structType.Fields.List {
				names := field.Names
				if len(names) == 0 {
					names = []*ast.Ident{embeddedName(field.Type)}
				}
				for _, name := range names {
					s.fields[spec.Name.Name+"."+name.Name] = markers(field.Doc)
				}
			}
		case *ast.ValueSpec:
			for i, name := range spec.Names {
				if i >= len(spec.Values) {
					continue
				}
				w.constant(s, name.Name, spec.Type, spec.Values[i], imports)
			}
		}
	}
}

// constant enters a constant that is a literal, or a conversion of a literal or of a constant of
// another package.
func (w *walker) constant(s *source, name string, of ast.Expr, value ast.Expr, imports map[string]string) {
	if call, ok := value.(*ast.CallExpr); ok && len(call.Args) == 1 {
		of, value = call.Fun, call.Args[0]
	}
	quoted := ""
	switch value := value.(type) {
	case *ast.BasicLit:
		switch value.Kind {
		case token.STRING:
			text, err := strconv.Unquote(value.Value)
			check(err)
			data, err := json.Marshal(text)
			check(err)
			quoted = string(data)
		case token.INT:
			quoted = value.Value
		}
	case *ast.SelectorExpr:
		if from, ok := value.X.(*ast.Ident); ok && strings.HasPrefix(imports[from.Name], "k8s.io/api") {
			quoted = w.source(imports[from.Name]).values[value.Sel.Name]
		}
	}
	if quoted == "" {
		return
	}
	s.values[name] = quoted
	owner, ok := of.(*ast.Ident)
	if !ok || !strings.HasPrefix(quoted, "\"") {
		return
	}
	var text string
	check(json.Unmarshal([]byte(quoted), &text))
	if !slices.Contains(s.constants[owner.Name], text) {
		s.constants[owner.Name] = append(s.constants[owner.Name], text)
	}
}

// embeddedName is the name that an embedded field has.
func embeddedName(of ast.Expr) *ast.Ident {
	switch of := of.(type) {
	case *ast.StarExpr:
		return embeddedName(of.X)
	case *ast.SelectorExpr:
		return of.Sel
	case *ast.Ident:
		return of
	}
	log.Fatalf("an embedded %T", of)
	return nil
}

// markers reads the lines of a comment that start with a plus sign.
func markers(doc *ast.CommentGroup) map[string][]string {
	found := map[string][]string{}
	if doc == nil {
		return found
	}
	for _, comment := range doc.List {
		line := strings.TrimSpace(strings.TrimLeft(comment.Text, "/*"))
		if name, value, _ := strings.Cut(line, "="); strings.HasPrefix(name, "+") {
			name = strings.TrimSpace(name[1:])
			found[name] = append(found[name], strings.TrimSpace(value))
		}
	}
	return found
}
