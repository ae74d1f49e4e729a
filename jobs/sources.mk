# Scripts that people and continuous integration start from the tree.
EXTRA_DIST += .ci/run jobs/check.sh jobs/finetune.sbatch jobs/manpages.sh jobs/quickstart.sh jobs/setup.sh jobs/sweep.sbatch
