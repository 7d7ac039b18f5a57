#!/usr/bin/env bash
#
# Builds the programs of a real Kubernetes from Go modules, once, into a cache outside the tree.
#
#   setup.sh [COMPONENT…]      build what is missing; the default is "etcd v1.34"
#   setup.sh --built [COMPONENT…]  build nothing: exit code 0 where all is there, else 77
#   setup.sh --list            name every component
#
# A COMPONENT is a family (v1.34, etcd, …) or one program of it (v1.34/kubectl).
# Standard output holds one line for each family asked for: its directory of programs.
# Progress goes to standard error.
# Exit codes: 0 all is there; 77 something must be built and there is no Go; else the failure of a build.
#
# The cache is $VK_CMD_KUBERNETES_CACHE, or vk-cmd/kubernetes in $XDG_CACHE_HOME, or in ~/.cache.
# Programs lie in FAMILY/KEY/bin, where KEY is a hash of the family's go.mod and go.sum: a tree with
# other versions never sees them. FAMILY/bin is a link to those of the latest run.
# Any of it may be deleted while no cluster runs from it.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${VK_CMD_KUBERNETES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vk-cmd/kubernetes}

say() {
    printf '%s\n' "$*" >&2
}

families() {
    local mod
    for mod in "$here"/*/go.mod; do
        basename "$(dirname "$mod")"
    done
}

programs_of() {
    case $1 in
    v1.*) echo kube-apiserver kube-scheduler kube-controller-manager kubectl ;;
    e2e) echo e2e.test ginkgo agnhost ;;
    *) echo "$1" ;;
    esac
}

package_of() {
    case $1 in
    v1.*/*) echo "k8s.io/kubernetes/cmd/${1#*/}" ;;
    etcd/etcd) echo go.etcd.io/etcd/server/v3 ;;
    kwok/kwok) echo sigs.k8s.io/kwok/cmd/kwok ;;
    metrics-server/metrics-server) echo sigs.k8s.io/metrics-server/cmd/metrics-server ;;
    e2e/e2e.test) echo k8s.io/kubernetes/test/e2e ;;
    e2e/ginkgo) echo github.com/onsi/ginkgo/v2/ginkgo ;;
    e2e/agnhost) echo k8s.io/kubernetes/test/images/agnhost ;;
    esac
}

# The version that the family's go.mod requires of a module.
version_of() {
    awk -v module="$2" '$1 == "require" { $1 = ""; $0 = $0 } $1 == module { print $2; exit }' "$here/$1/go.mod"
}

# What a release build stamps into its programs; without it every client sees v0.0.0.
linker_flags_of() {
    local version major minor
    case $1 in
    v1.* | e2e)
        version=$(version_of "$1" k8s.io/kubernetes)
        IFS=. read -r major minor _ <<<"${version#v}"
        local package=k8s.io/component-base/version
        echo "-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor" \
            "-X $package.gitTreeState=clean"
        ;;
    kwok)
        echo "-s -w -X sigs.k8s.io/kwok/pkg/consts.Version=$(version_of "$1" sigs.k8s.io/kwok)"
        ;;
    metrics-server)
        echo "-s -w -X k8s.io/client-go/pkg/version.gitVersion=$(version_of "$1" sigs.k8s.io/metrics-server)"
        ;;
    *)
        echo "-s -w"
        ;;
    esac
}

key_of() {
    cat "$here/$1/go.mod" "$here/$1/go.sum" | sha256sum | cut -c 1-12
}

# build FAMILY BIN PROGRAM…: in one run of Go where it names the programs as we do, so that one is compiled while
# another is linked.
build() {
    local family=$1 bin=$2 program temporary output began=$SECONDS
    local -a packages=() verb=(go build)
    shift 2
    if ! command -v go >/dev/null; then
        say "setup.sh: $family/$1 must be built and there is no Go (https://go.dev/dl/)"
        exit 77
    fi
    for program in "$@"; do
        packages+=("$(package_of "$family/$program")")
    done
    temporary=$(mktemp -d "$bin/.building.XXXXXX")
    # shellcheck disable=SC2064 # the name of now is meant
    trap "rm -rf '$temporary'" EXIT
    output=$temporary/
    if (($# == 1)); then
        output=$temporary/$1
        [[ $1 != *.test ]] || verb=(go test -c)
    fi
    say "building $family: $* …"
    (
        cd "$here/$family"
        CGO_ENABLED=0 "${verb[@]}" -mod=readonly -buildvcs=false -trimpath \
            -ldflags "$(linker_flags_of "$family")" -o "$output" "${packages[@]}"
    ) >&2 9>&-
    for program in "$@"; do
        mv -f "$temporary/$program" "$bin/$program"
    done
    rm -rf "$temporary"
    trap - EXIT
    say "built $family: $* in $((SECONDS - began)) s"
}

# Whether programs of a family are there.
is_built() {
    local family=$1 program bin
    bin=$cache/$family/$(key_of "$family")/bin
    shift
    for program in "$@"; do
        if [[ ! -x $bin/$program ]]; then
            say "setup.sh: $family/$program is not built (tests/kubernetes/setup.sh $family/$program)"
            return 77
        fi
    done
}

# Builds what is missing of one family. Runs in a subshell, so that the lock goes with it.
set_up() (
    family=$1
    shift
    key=$(key_of "$family")
    bin=$cache/$family/$key/bin
    missing=()
    for program in "$@"; do
        [[ -x $bin/$program ]] || missing+=("$program")
    done
    if ((${#missing[@]})); then
        mkdir -p "$bin"
        # Two runs at once would be right without the lock too, at twice the work.
        exec 9>"$cache/$family/.lock"
        flock 9 2>/dev/null || true
        # What another run has built meanwhile is there.
        unbuilt=()
        for program in "${missing[@]}"; do
            [[ -x $bin/$program ]] || unbuilt+=("$program")
        done
        case $family in
        v1.*) ((${#unbuilt[@]} == 0)) || build "$family" "$bin" "${unbuilt[@]}" ;;
        *)
            for program in "${unbuilt[@]}"; do
                build "$family" "$bin" "$program"
            done
            ;;
        esac
    fi
    if [[ $(readlink "$cache/$family/bin") != "$key/bin" ]]; then
        link=$cache/$family/.bin.$BASHPID
        ln -s "$key/bin" "$link"
        mv -fT "$link" "$cache/$family/bin"
    fi
    echo "$bin"
)

main() {
    local component family program
    local -a order=()
    local -A wanted=()

    if [[ ${1-} == --list ]]; then
        for family in $(families); do
            for program in $(programs_of "$family"); do
                echo "$family/$program"
            done
        done
        return
    fi

    local task=set_up
    if [[ ${1-} == --built ]]; then
        task=is_built
        shift
    fi

    (($#)) || set -- etcd v1.34
    for component in "$@"; do
        family=${component%%/*}
        if [[ -z $family || ! -f $here/$family/go.mod ]]; then
            say "setup.sh: no component $component; there are: $(families | paste -sd ' ')"
            return 2
        fi
        [[ -n ${wanted[$family]-} ]] || order+=("$family")
        if [[ $component == */* ]]; then
            program=${component#*/}
            if [[ " $(programs_of "$family") " != *" $program "* ]]; then
                say "setup.sh: no program $program in $family; there are: $(programs_of "$family")"
                return 2
            fi
            wanted[$family]+=" $program"
        else
            wanted[$family]+=" $(programs_of "$family")"
        fi
    done
    for family in "${order[@]}"; do
        # shellcheck disable=SC2086 # a list of words
        "$task" "$family" ${wanted[$family]}
    done
}

main "$@"
