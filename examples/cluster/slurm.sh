#!/usr/bin/env bash
# One search on many nodes: sbatch slurm.sh search.yaml
#
# Each task of the array is a process that searches with the others. Nodes may be taken away and given back
# (--requeue): the others try their trials again. All that is shared is the study, here a journal in the
# directory that the job is sent from, which all nodes must see; with a database set AUTOSEARCH_STORAGE.
#SBATCH --job-name=autosearch
#SBATCH --array=0-7
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=autosearch-%A-%a.out

set -euo pipefail

config=${1:-search.yaml}
storage=${AUTOSEARCH_STORAGE:-journal:${SLURM_SUBMIT_DIR:-$PWD}/study.journal}

cd "${SLURM_SUBMIT_DIR:-$PWD}"
# exec: signals reach the search itself, which gives its trials back
exec autosearch worker "$config" \
    --set "storage=$storage" \
    --n-jobs "${SLURM_CPUS_PER_TASK:-1}"
