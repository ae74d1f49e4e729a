#!/bin/sh
# The batch scripts, which run where nobody has tried them: what bash and shellcheck say of them.
. "$srcdir/tests/lib.sh"
cd "$source_dir" || exit 99
for script in jobs/*.sbatch jobs/requeue.sh; do
    tap_check "$script is bash" bash -n "$script"
    if command -v shellcheck >/dev/null; then
        tap_check "$script passes shellcheck" shellcheck "$script"
    else
        tap_skip "$script passes shellcheck" "there is no shellcheck here"
    fi
done
tap_done
