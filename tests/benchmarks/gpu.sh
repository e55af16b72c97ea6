#!/bin/sh
# ViT-B/16 and ViT-L/16 on one GPU, beside timm: python -m vit_jax.benchmark alone, JSON into $OUT (default: bench/).
# Needs '.[cuda]', and for --against=timm PyTorch and timm. Each call takes a few minutes at most; one that fails is
# said at the end and does not stop the others.
OUT=${OUT:-bench}
mkdir -p "$OUT" || exit 1
failed=""

measure() {
    name=$1
    shift
    echo "$name"
    python -m vit_jax.benchmark "$@" --json > "$OUT/$name.json" || failed="$failed $name"
}

common="--image_size=224 --dtype=bfloat16 --peak_tflops=${PEAK_TFLOPS:-989}"

for model in vit_b16 vit_l16; do
    measure "train_batch_$model" --mode=train --model=$model --batch_size=64,128,256 --attention_kernel=plain,cudnn $common
    measure "train_remat_$model" --mode=train --model=$model --batch_size=128 --remat=none,dots,full \
        --attention_kernel=plain,cudnn $common
    measure "train_fused_qkv_$model" --mode=train --model=$model --batch_size=128 --fused_qkv=False,True $common
    measure "train_against_$model" --mode=train --model=$model --batch_size=128 --against=timm,timm_compiled $common
    measure "infer_batch_$model" --mode=infer --model=$model --batch_size=1,32,256 --attention_kernel=plain,cudnn $common
    measure "infer_against_$model" --mode=infer --model=$model --batch_size=1,128 --against=timm,timm_compiled $common
done

# Time and memory by image size: where attention's square takes over.
measure scaling --mode=train --model=vit_b16 --batch_size=16 --image_size=224,384,512,768,1024 --dtype=bfloat16 \
    --attention_kernel=plain,cudnn --remat=dots --plot="$OUT/scaling.png"

if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
