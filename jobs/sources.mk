# Scripts that people and continuous integration start from the tree.
EXTRA_DIST += .ci/run jobs/check.sh jobs/manpages.sh jobs/quickstart.sh jobs/setup.sh

# Batch scripts for Slurm, with what they have in common; installed too.
dist_pkgdata_SCRIPTS = jobs/check.sbatch jobs/finetune.sbatch jobs/finetune-gpu.sbatch jobs/finetune-nodes.sbatch jobs/requeue.sh \
	jobs/sweep.sbatch
