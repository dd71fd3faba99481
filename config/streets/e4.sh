#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# E4 of docs/distillation.md: the rows that the table of few labels lacks: pseudo-labels alone with three
# seeds, the teacher, and the student alone on all 40 streets that the teacher read. It goes on where it
# was ended.
#   nohup nice -n 19 sh config/streets/e4.sh >> runs/e4.log 2>&1 &
#   .venv/bin/python training/compare.py --status runs/e4
set -e
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
cfg=config/streets/one_teacher.yaml

for seeds in 1 2 3; do
    $python training/compare.py --cfg $cfg --out runs/e4/all_streets --seeds $seeds --arms alone \
        --set data.streets.labelled=40
    $python training/compare.py --cfg $cfg --out runs/e4/few_labels --seeds $seeds \
        --arms pseudo_labels
done
