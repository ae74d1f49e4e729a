#!/bin/sh
# Question/answer pairs out of what this machine's packages say about themselves, for an instruction job:
#
#     sh jobs/manpages.sh DIRECTORY        writes DIRECTORY/train.jsonl and DIRECTORY/valid.jsonl
#
# "What does the command X do?" comes from the NAME lines of the manual pages of section 1 and 8, "What is the Debian package
# X?" from dpkg's one-line descriptions (minimal images leave the manual pages out). One pair in twenty is for validation.
set -eu
[ $# -eq 1 ] || { echo "usage: sh jobs/manpages.sh DIRECTORY" >&2; exit 1; }
mkdir -p "$1"
export LC_ALL=C.UTF-8

# NAME \- what it does, of every page: the line or lines between .SH NAME and the next section, without troff's marks.
commands()
{
    for page in /usr/share/man/man[18]/*.[18]*; do
        [ -f "$page" ] || continue
        case $page in
        *.gz) gzip -dc "$page" ;;
        *) cat "$page" ;;
        esac | awk '
            /^\.S[Hh] *"?(NAME|Name)"?/ { inside = 1; next }
            inside && /^\.S[Hhs]/ { exit }
            inside && /^\.Nm/ { text = text " " $2; next }
            inside && /^\.Nd/ { sub(/^\.Nd */, "\\- "); text = text " " $0; next }
            inside && !/^\./ { text = text " " $0 }
            END {
                gsub(/\\f[A-Z]|\\f\([A-Z][A-Z]|\\[&|^]/, "", text); gsub(/\\\(en|\\\(em/, "\\-", text)
                at = index(text, "\\-"); skip = 2
                if (!at) { at = index(text, " - "); skip = 3 }
                if (!at) exit
                name = substr(text, 1, at - 1); what = substr(text, at + skip)
                sub(/,.*/, "", name); gsub(/\\-/, "-", name); gsub(/\\-/, "-", what)
                gsub(/[ \t]+/, " ", name); gsub(/[ \t]+/, " ", what)
                sub(/^ /, "", name); sub(/ $/, "", name); sub(/^ /, "", what); sub(/ $/, "", what)
                if (name != "" && name !~ / / && length(what) > 10 && what !~ /\\/)
                    print "What does the command " name " do?\t" what
            }'
    done
}

packages() { dpkg-query -W -f 'What is the Debian package ${Package}?\t${binary:Summary}\n' 2>/dev/null || true; }

{ commands; packages; } | sort -u | awk -F '\t' -v directory="$1" '
    function quoted(s) { gsub(/\\/, "\\\\", s); gsub(/"/, "\\\"", s); return "\"" s "\"" }
    NF == 2 && !/[\001-\010\013-\037]/ {
        file = directory (NR % 20 ? "/train.jsonl" : "/valid.jsonl")
        what = toupper(substr($2, 1, 1)) substr($2, 2)
        if (what !~ /[.!?]$/) what = what "."
        print "{\"context\": \"\", \"question\": " quoted($1) ", \"answer\": " quoted(what) "}" > file
        count[file]++
    }
    END {
        for (file in count) print file ": " count[file] " pairs"
        if (NR == 0) { print "finemesh: error: no manual pages and no dpkg on this machine" > "/dev/stderr"; exit 1 }
    }'
