"""The gradient of the EnergyNetwork with respect to its images, with the chain rule written out.

This gradient takes nearly all the time of a Langevin step. The notebooks do not depend on this
module: helpers.langevin_dynamics works with any energy through autograd, and tests compare the
two. The differences from autograd are:

- No graph is built.
- The first convolution, which is slow as a convolution because it has one channel, is a matrix
  product over rows of pixels. The last convolution is a full matrix.
- Fewer than 4 images are computed in float32, in which a convolution has less overhead.
"""

import functools

import torch
import torch.nn.functional as F
from torch import nn

LAYOUT = [nn.Conv2d, nn.SiLU] * 4 + [nn.Flatten, nn.Linear, nn.SiLU, nn.Linear]
SMALL = 4  # images


def settings_of(convolution):
    c = convolution
    return (c.kernel_size, c.stride, c.padding, c.dilation, c.groups, c.padding_mode)


def fits(model, device):
    """Return whether `input_gradient` applies to an EnergyNetwork on a device.

    A network that was modified or has hooks needs autograd.
    """
    hooked = any(map(is_hooked, model.modules()))
    return device.type in ("cpu", "cuda") and not hooked and layers_fit(model.layers)


def is_hooked(module):
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


def layers_fit(layers):
    """Return whether these are the layers of an unmodified EnergyNetwork."""
    if [type(layer) for layer in layers] != LAYOUT or layers[0].in_channels != 1:
        return False
    first = ((5, 5), (2, 2), (4, 4), (1, 1), 1, "zeros")
    later = ((3, 3), (2, 2), (1, 1), (1, 1), 1, "zeros")
    if [settings_of(layer) for layer in layers[:8:2]] != [first, later, later, later]:
        return False
    return all(layer.bias is not None for layer in layers if hasattr(layer, "bias"))


def first_layer_matrix(first):
    """Return the first convolution as one matrix, from 5 x 28 pixels to a row of 16 positions.

    It is obtained by applying the layer to unit vectors. Its transpose leads back to the pixels.
    """
    kernel = first.weight.detach()
    pixels = torch.eye(140, device=kernel.device, dtype=kernel.dtype).view(140, 1, 5, 28)
    values = F.conv2d(pixels, kernel, stride=2, padding=(0, 4))  # [140, channels, 1, 16]
    return values.permute(0, 2, 3, 1).reshape(140, -1)


def last_convolution_matrix(fourth, dtype):
    """Return the last convolution, from 4 x 4 to 2 x 2 positions, as one full matrix."""
    kernel, c_in, c_out = fourth.weight.detach(), fourth.in_channels, fourth.out_channels
    kernel = kernel.to(dtype).permute(2, 3, 1, 0)
    dense = torch.zeros(6, 6, c_in, 2, 2, c_out, device=kernel.device, dtype=dtype)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):  # 4 x 4 positions and their padding
        dense[2 * i : 2 * i + 3, 2 * j : 2 * j + 3, :, i, j] = kernel
    return dense[1:5, 1:5].reshape(16 * c_in, 4 * c_out)


def weights_of(layers, dtype):
    """Return the weights for `input_gradient` in `dtype`, as tensors without gradients."""
    first, second, third, fourth = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    hidden, last = (layer for layer in layers if isinstance(layer, nn.Linear))
    with torch.autocast(first.weight.device.type, enabled=False):
        w1, w4 = first_layer_matrix(first), last_convolution_matrix(fourth, dtype)
    rows = hidden.weight.view(-1, fourth.out_channels, 2, 2).permute(0, 2, 3, 1)
    tensors = [2 * w1, first.bias.repeat(16) - w1.sum(0)]  # of 2 x - 1
    tensors += [second.weight, second.bias, third.weight, third.bias]
    tensors += [w4, fourth.bias.repeat(4), rows.reshape(len(hidden.weight), -1)]
    tensors += [hidden.bias, last.weight]
    formats = {4: torch.channels_last}
    default = torch.contiguous_format
    return [t.detach().to(dtype, memory_format=formats.get(t.dim(), default)) for t in tensors]


def input_gradient(x, weights):
    """Return grad E(x), float32 [B, 1, 28, 28], by a forward pass and the chain rule."""
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5, w6 = weights
    silu, silu_backward = F.silu, torch.ops.aten.silu_backward
    batch, channels = len(x), w1.shape[1] // 16
    # [B, 35, 28], padded with 0.5, where 2 x - 1 = 0
    rows = F.pad(x.to(w1.dtype).view(batch, 28, 28), (0, 0, 4, 3), value=0.5)
    windows = rows.as_strided((batch, 16, 140), (35 * 28, 56, 1))  # five rows each, shifted by two
    h1 = torch.addmm(b1, windows.reshape(-1, 140), w1)
    h1 = h1.view(batch, 16, 16, channels).permute(0, 3, 1, 2)
    a1 = silu(h1)
    h2 = F.conv2d(a1, w2, b2, stride=2, padding=1)
    a2 = silu(h2)
    h3 = F.conv2d(a2, w3, b3, stride=2, padding=1)  # [B, 4 channels, 4, 4], channels last in memory
    h4 = torch.addmm(b4, silu(h3).permute(0, 2, 3, 1).reshape(batch, -1), w4)
    h5 = F.linear(silu(h4), w5, b5)

    g = silu_backward(w6.expand_as(h5), h5)
    g = silu_backward(g @ w5, h4)
    g = (g @ w4.T).view(batch, *h3.shape[2:], h3.shape[1]).permute(0, 3, 1, 2)
    g = convolution_backward(silu_backward(g, h3), a2, w3)
    g = convolution_backward(silu_backward(g, h2), a1, w2)
    g = silu_backward(g, h1).permute(0, 2, 3, 1).reshape(-1, 16 * channels)
    rows = (g @ w1.T).view(batch, 16, 140)  # what each position says to its five rows of pixels
    pairs = rows[:, 2:, :56].float().add_(rows[:, 1:15, 56:112])  # two rows [B, 14, 56]
    pairs[:, :, :28].add_(rows[:, :14, 112:])
    return pairs.reshape(x.shape)


def convolution_backward(g, a, weight):
    """Return the gradient of a stride-2, padding-1 convolution with respect to its input `a`."""
    settings = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
    return torch.ops.aten.convolution_backward(g, a, weight, None, *settings, [True, False, False])[
        0
    ]


@functools.cache
def gradient_on(device_type):
    """Return the fastest version of `input_gradient` for this type of device.

    On CUDA it is compiled into CUDA graphs, with one launch per step. If compilation fails (no
    Triton, no compiler), it prints one message and uses the plain function.
    """
    if device_type != "cuda":
        return input_gradient
    function = torch.compile(input_gradient, mode="reduce-overhead", dynamic=False)

    def gradient(x, weights):
        nonlocal function
        try:
            return function(x, weights)
        except Exception as error:  # compilers fail with many kinds of errors
            result = input_gradient(x, weights)  # other errors are raised again here
            kind = type(error).__name__
            print(f"CUDA graphs are not available here ({kind}): continuing without them.")
            function = input_gradient
            return result

    return gradient
