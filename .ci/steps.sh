# Sourced by run and checks: named steps, all of which are tried, and a summary of those that failed.

export PIP_DISABLE_PIP_VERSION_CHECK=1 PYRIGHT_PYTHON_IGNORE_WARNINGS=1 # neither asks for newer releases
failed=()

step() { # NAME COMMAND...
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
}

finish() {
    if ((${#failed[@]})); then
        printf '\n== failed:'
        printf ' [%s]' "${failed[@]}"
        printf '\n'
        exit 1
    fi
    printf '\n== all steps passed\n'
}
