#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# E3 of docs/distillation.md: PVKD on its three backbones. It wants E1's scans and teacher (e1.sh), and goes
# on where it was ended.
#   nohup nice -n 19 sh config/streets/e3.sh >> runs/e3.log 2>&1 &
#   .venv/bin/python training/compare.py --status runs/e3
set -e
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
e3=runs/e3
streets='00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15'

teach() { # CONFIGURATION, NAME: a teacher, and what it has on its own scans, the gate's first half
    $python training/train.py --cfg config/teachers/$1.yaml --out $e3/$2
    $python training/evaluate.py --bundle $e3/$2/best.safetensors --data runs/e1/streets \
        --sequences $streets --json $e3/$2_on_its_scans.json
}

for backbone in minkunet spvcnn cylinder; do
    case $backbone in
        spvcnn) teach spvcnn_half_e3 teacher_spvcnn ;;
        cylinder) teach cylinder3d_quarter_e3 teacher_cylinder ;;
    esac
    for seeds in 1 2 3; do
        $python training/compare.py --cfg config/streets/e3_$backbone.yaml --out $e3/$backbone \
            --seeds $seeds --half report
    done
done
