"""What PyTorch does on the same GPU, for bench/gpu.sh: the hardware's limits and softmax attention's peer.

python3 bench/pytorch.py prints a copy's bandwidth, matrix products and FlashAttention, as medians of timed calls.
"""

import torch
import torch.nn.functional as F


def ms(call, calls=20):
    """The median of GPU times of a call, in ms."""
    for _ in range(3):
        call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events)[calls // 2]


print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
x = torch.randn(2**30, device="cuda")
print(f"copy of 4 GiB: {8 * 2**30 / ms(lambda: x.clone()) / 1e9:.2f} TB/s, read and written")
del x
torch.backends.cuda.matmul.allow_tf32 = False
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    a, b = (torch.randn(4096, 4096, device="cuda", dtype=dtype) for _ in range(2))
    print(f"matmul 4096³ {dtype}: {2 * 4096**3 / ms(lambda: a @ b) / 1e9:.1f} TFLOP/s")
print("causal softmax attention, bf16, batch 4, heads 32, d 128: forward, backward, ms")
for n in (1024, 8192, 32768):
    q, k, v, u = (torch.randn(4, 32, n, 128, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    for t in (q, k, v):
        t.requires_grad_()
    attend = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    forward = ms(attend, 5)
    o = attend()
    backward = ms(lambda: torch.autograd.grad(o, (q, k, v), u, retain_graph=True), 5)
    print(f"n {n}: {forward:.3f}, {backward:.3f}")
