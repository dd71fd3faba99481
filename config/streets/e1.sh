#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# E1 of docs/distillation.md from nothing to its tables: days on one core. It goes on where it was ended.
#   nohup nice -n 19 sh config/streets/e1.sh >> runs/e1.log 2>&1 &
#   .venv/bin/python training/compare.py --status runs/e1
set -e
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
e1=runs/e1
learnt='00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15'
scored='16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39'
streets='--scans 10 --sensor vlp16 --enrich 3 --seed 24'
# what moves the whole scan is done again at every step
moves='rotation_deg: 0, flip: false, scale: 0'
mixes='jitter_m: 0.01, polarmix: 0.5, lasermix: 0.3, paste: 4, drop: 0.1'

$python training/simulate.py --out $e1/streets --sequences 16 $streets
$python training/simulate.py --out $e1/streets --first 16 --sequences 24 $streets
$python training/augment.py $e1/streets $e1/augmented --sequences $learnt --versions 8 \
    --augment "{$moves, $mixes}" --plain $scored

# the gate: at least 80 % on what it learnt from, at least 6 points ahead of the student alone elsewhere
$python training/train.py --cfg config/teachers/minkunet_half_e1.yaml --out $e1/teacher
$python training/evaluate.py --bundle $e1/teacher/best.safetensors --data $e1/streets \
    --sequences $learnt --json $e1/teacher_on_its_scans.json

compare() { # ARMS' CONFIGURATION, FOLDER, SEEDS and what else
    cfg=$1 out=$2 seeds=$3
    shift 3
    $python training/compare.py --cfg config/streets/$cfg.yaml --out $e1/$out --seeds $seeds --half report "$@"
}

fuse() { # M2SKD's teacher: the past of hard objects beside the same scans, and a network that sees it
    $python training/augment.py $e1/streets $e1/augmented --sequences $learnt --versions 8 \
        --augment "{$moves, $mixes}" --past-scans 4 --moving centroid
    $python training/train.py --cfg config/teachers/minkunet_half_e1_fused.yaml --out $e1/teacher_fused
}

for seeds in 1 2 3 4 5 6; do
    compare e1 compare $seeds --arms pvkd srkd label_smoothing self_teacher
    compare e1_sum sum $seeds
    if [ $seeds -ge 2 ]; then # two seeds of the others first
        fuse
        compare e1_m2skd m2skd $seeds
    fi
done
