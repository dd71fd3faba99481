#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# E2 of docs/distillation.md: real scans, all labelled, cross-validated. It goes on where it was ended.
#   SEMANTICKITTI=ROOT nohup nice -n 19 sh config/semantickitti/e2.sh >> runs/e2.log 2>&1 &
#   .venv/bin/python training/compare.py --status runs/e2
# ROOT holds sequences/ with 00 to 07 and 09, of which each may have a few scans only.
set -e
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
real=${SEMANTICKITTI:?set it to the folder that holds sequences/ of the real scans}
e2=runs/e2
mixes='{rotation_deg: 0, flip: false, scale: 0, jitter_m: 0.01, polarmix: 0.5, lasermix: 0.3, paste: 4, drop: 0.1}'

list() { echo "$*" | sed 's/ /","/g; s/^/["/; s/$/"]/'; }

prepare() { # FOLD, WHAT IS SCORED, WHAT IS LEARNT FROM: as compare.py --folds 3 splits e2.yaml
    $python training/augment.py "$real" $e2/augmented$1 --sequences $3 --versions 4 \
        --augment "$mixes" --plain $2
    $python training/train.py --cfg config/teachers/streets_e2.yaml --out $e2/teacher$1 \
        --set data.root=$e2/augmented$1 --set "data.train=$(list $3)" \
        --set "data.validation=$(list $2)"
    $python training/evaluate.py --bundle $e2/teacher$1/best.safetensors --data "$real" \
        --sequences $3 --json $e2/teacher$1_on_its_scans.json
}

prepare 0 '00 01 04' '06 07 02 03 05 09'
prepare 1 '06 02 05' '00 07 01 03 04 09'
prepare 2 '07 03 09' '00 06 01 02 04 05'

compare() { # CONFIGURATION, FOLDER, SEEDS
    $python training/compare.py --cfg config/semantickitti/$1.yaml --folds 3 --out $e2/$2 \
        --seeds $3 --arms pvkd srkd label_smoothing self_teacher
}

for seeds in 1 2 3; do
    compare e2_warm warm $seeds
    compare e2 scratch $seeds
done
