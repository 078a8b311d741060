"""The gradient of an energy in its image, which is nearly all that a Langevin step costs: EnergyNetwork's, by hand.

Nothing here is needed to understand the notebooks: helpers.langevin_dynamics works with any energy through autograd, and the
tests hold this against it. What it does otherwise (image-steps/s of 77,000 parameters on two cores with native bfloat16,
where autograd through a bfloat16 copy gives 34,900 at batch 128, 47,900 at 512 and 1,900 at 1; 2026-11-23):

- no graph is built, and the first convolution, whose one channel suits no convolution kernel, is a matrix product over rows
  of pixels, the last a full matrix: 48,800 and 61,000. torch.compile of it brings nothing (one core: 30,900 for 31,000);
- below 8 images it calculates in float32, where a convolution starts three times as soon: 4,500 at batch 1.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

LAYOUT = [nn.Conv2d, nn.SiLU] * 4 + [nn.Flatten, nn.Linear, nn.SiLU, nn.Linear]
SMALL = 8  # images


def fits(layers):
    """Whether these layers are those the gradient below is written for: an edited EnergyNetwork goes through autograd."""
    if [type(layer) for layer in layers] != LAYOUT:
        return False
    settings = [(c.kernel_size, c.stride, c.padding, c.dilation, c.groups, c.padding_mode) for c in layers[:8:2]]
    later = ((3, 3), (2, 2), (1, 1), (1, 1), 1, "zeros")
    as_written = settings == [((5, 5), (2, 2), (4, 4), (1, 1), 1, "zeros")] + [later] * 3 and layers[0].in_channels == 1
    return as_written and all(layer.bias is not None for layer in layers if hasattr(layer, "bias"))


def weights_of(layers, dtype):
    """The weights as input_gradient() takes them, in `dtype`: a flat list of tensors without gradients."""
    first, second, third, fourth = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    hidden, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    kernel, (c_in, c_out) = first.weight.detach(), (fourth.in_channels, fourth.out_channels)
    options = {"device": kernel.device, "dtype": kernel.dtype}
    with torch.autocast(kernel.device.type, enabled=False):
        # What each of the 5 x 28 pixels of five rows adds to one row of 16 positions, and what each value of three such rows
        # gives back to the two rows of pixels that all of their windows share: the layer applied to unit vectors.
        forth = F.conv2d(torch.eye(140, **options).view(140, 1, 5, 28), kernel, stride=2, padding=(0, 4))
        unit = torch.eye(48 * first.out_channels, **options).view(-1, 3, 16, first.out_channels).permute(0, 3, 1, 2)
        back = F.conv_transpose2d(unit, kernel, stride=2, padding=4, output_padding=1)
    forth, back = 2 * forth.permute(0, 2, 3, 1).reshape(140, -1), 2 * back.reshape(-1, 56)  # both of 2 x - 1
    b1 = first.bias.repeat(16) - forth.sum(0) / 2
    dense = torch.zeros(6, 6, c_in, 2, 2, c_out, **options)  # 4 x 4 positions and their padding, to 2 x 2
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        dense[2 * i : 2 * i + 3, 2 * j : 2 * j + 3, :, i, j] = fourth.weight.detach().permute(2, 3, 1, 0)
    dense = dense[1:5, 1:5].reshape(16 * c_in, 4 * c_out)
    flat = hidden.weight.view(-1, c_out, 2, 2).permute(0, 2, 3, 1).reshape(len(hidden.weight), -1)
    tensors = [forth, b1, back, second.weight, second.bias, third.weight, third.bias,
               dense, fourth.bias.repeat(4), flat, hidden.bias, last.weight]  # fmt: skip
    formats = [torch.channels_last if t.dim() == 4 else torch.contiguous_format for t in tensors]
    return [t.detach().to(dtype, memory_format=f) for t, f in zip(tensors, formats, strict=True)]


def input_gradient(x, weights):
    """grad E(x), float32 [B, 1, 28, 28], of the EnergyNetwork that weights_of() read: forward, then the chain rule."""
    forth, b1, back, w2, b2, w3, b3, w4, b4, w5, b5, w6 = weights
    silu, silu_backward = F.silu, torch.ops.aten.silu_backward
    batch, channels = len(x), forth.shape[1] // 16
    rows = F.pad(x.to(forth.dtype).view(batch, 28, 28), (0, 0, 4, 3), value=0.5)  # [B, 35, 28]; padded where 2 x - 1 = 0
    windows = rows.as_strided((batch, 16, 140), (35 * 28, 56, 1))  # five rows each, two further on every time
    h1 = torch.addmm(b1, windows.reshape(-1, 140), forth).view(batch, 16, 16, channels).permute(0, 3, 1, 2)
    h2 = F.conv2d(a1 := silu(h1), w2, b2, stride=2, padding=1)
    h3 = F.conv2d(a2 := silu(h2), w3, b3, stride=2, padding=1)  # [B, 4 channels, 4, 4], channels last in memory
    h4 = torch.addmm(b4, silu(h3).permute(0, 2, 3, 1).reshape(batch, -1), w4)
    h5 = F.linear(silu(h4), w5, b5)

    g = silu_backward(w6.expand_as(h5), h5)
    g = silu_backward(g @ w5, h4)
    g = (g @ w4.T).view(batch, *h3.shape[2:], h3.shape[1]).permute(0, 3, 1, 2)
    g = convolution_backward(silu_backward(g, h3), a2, w3)
    g = convolution_backward(silu_backward(g, h2), a1, w2)
    g = silu_backward(g, h1).permute(0, 2, 3, 1).contiguous()  # [B, 16, 16, channels]: rows of 16 x channels values
    windows = g.as_strided((batch, 14, 48 * channels), (256 * channels, 16 * channels, 1))  # three rows each
    return (windows.reshape(-1, 48 * channels) @ back).view_as(x).float()


def convolution_backward(g, a, weight):
    """The gradient in the input `a` alone of a convolution of stride 2 and padding 1."""
    settings = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(g, a, weight, None, *settings, [True, False, False])[0]


@functools.cache
def gradient_on(device_type):
    """input_gradient() as this kind of device runs it best: on CUDA compiled into CUDA graphs, one launch a step.

    Where compiling fails (no Triton, no compiler) it says so once and goes on with the plain function.
    """
    if device_type != "cuda":
        return input_gradient
    function = torch.compile(input_gradient, mode="reduce-overhead", dynamic=False)

    def gradient(x, weights):
        nonlocal function
        try:
            return function(x, weights)
        except Exception as error:  # whatever a compiler can fail with; if it was not the compiler, the next line fails too
            result = input_gradient(x, weights)
            print(f"CUDA graphs are not to be had here ({type(error).__name__}): going on without.")
            function = input_gradient
            return result

    return gradient
