"""The scripts that make a shell ask `adapters` at TAB.

A script passes the line up to the cursor in `_ADAPTERS_LINE`. The answer's first line is `words`, `files` or `folders`,
a tab, and the word being completed as adapters read it; then one word a line, with a tab and its help where it has one.
bash breaks words at `@`, `:` and `=` too and replaces only what follows; the script cuts the rest off each word.
"""

from __future__ import annotations

_BASH = """\
# TAB completion of adapters for bash 4.4 and newer.
_adapters_complete() {
    local replies kind typed word
    COMPREPLY=()
    mapfile -t replies < <(_ADAPTERS_COMPLETE=bash_complete _ADAPTERS_LINE="${COMP_LINE:0:COMP_POINT}" "$1" 2>/dev/null)
    kind="${replies[0]%%$'\\t'*}"
    typed="${replies[0]#*$'\\t'}"
    case "$kind" in
        files) compopt -o default; return ;;
        folders) compopt -o dirnames; return ;;
        words) ;;
        *) return ;;
    esac
    replies=("${replies[@]:1}")
    replies=("${replies[@]%%$'\\t'*}")
    [[ "$typed" == *"$2" ]] && typed="${typed%"$2"}" || typed=""
    COMPREPLY=("${replies[@]#"$typed"}")
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[/=:] ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _adapters_complete adapters
"""

_ZSH = """\
#compdef adapters
# TAB completion of adapters for zsh; after compinit.
_adapters_complete() {
    local -a replies ended open shown
    local line="${(j: :)words[1,CURRENT-1]} ${IPREFIX}${PREFIX}" reply value
    replies=("${(@f)$(_ADAPTERS_COMPLETE=zsh_complete _ADAPTERS_LINE="$line" "${words[1]}" 2>/dev/null)}")
    case "${replies[1]%%$'\\t'*}" in
        files) _files; return ;;
        folders) _files -/; return ;;
        words) ;;
        *) return 1 ;;
    esac
    for reply in "${(@)replies[2,-1]}"; do
        value="${reply%%$'\\t'*}"
        if [[ "$value" == *[/=:] ]]; then
            open+=("$value")
        else
            ended+=("$value")
            shown+=("${reply/$'\\t'/  -- }")
        fi
    done
    (( ${#open} )) && compadd -S '' -a open
    if [[ "${shown[*]}" == *' -- '* ]]; then
        compadd -l -d shown -a ended
    elif (( ${#ended} )); then
        compadd -a ended
    fi
}
if [[ "${funcstack[1]}" == _adapters ]]; then
    _adapters_complete "$@"
else
    compdef _adapters_complete adapters
fi
"""

_FISH = """\
# TAB completion of adapters for fish 3.1 and newer.
function __adapters_complete
    set -l line (commandline -cp | string collect)
    set -l replies (_ADAPTERS_COMPLETE=fish_complete _ADAPTERS_LINE="$line" adapters 2>/dev/null)
    test (count $replies) -gt 0; or return
    switch (string split \\t -- $replies[1])[1]
        case files
            __fish_complete_path (commandline -ct)
        case folders
            __fish_complete_directories (commandline -ct) ''
        case words
            test (count $replies) -gt 1; and string join \\n -- $replies[2..-1]
    end
end
complete -c adapters -f -a '(__adapters_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
