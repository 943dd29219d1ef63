"""Sound and sequences as people write them: a vocoder, a spectral front end, recurrent taggers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.strangers.making import livened, seeded


class Vocoder(nn.Module):
    """HiFi-GAN's generator: transposed convolutions and dilated blocks, all under weight_norm."""

    def __init__(self, mels: int = 20, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.weight_norm
        self.enter = norm(nn.Conv1d(mels, width, 7, padding=3))
        self.up = nn.ModuleList(norm(nn.ConvTranspose1d(width >> i, width >> (i + 1), 8, 4, 2)) for i in range(2))
        self.blocks = nn.ModuleList(
            nn.ModuleList(norm(nn.Conv1d(width >> (i + 1), width >> (i + 1), 3, padding=d, dilation=d)) for d in (1, 3))
            for i in range(2)
        )
        self.leave = norm(nn.Conv1d(width >> 2, 1, 7, padding=3))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.enter(mel)
        for up, convs in zip(self.up, self.blocks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            for conv in convs:
                x = x + conv(F.leaky_relu(x, 0.1))
        return torch.tanh(self.leave(F.leaky_relu(x)))


@seeded
def vocoder() -> nn.Module:
    made = livened(Vocoder(), 1.0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("weight_g"):  # the length of each filter, under weight_norm
                parameter.mul_(3)
    return made


class Keywords(nn.Module):
    """Spoken words from a waveform: STFT as a convolution with a fixed basis, log-mel, a small CNN."""

    def __init__(self, frame: int = 64, hop: int = 32, mels: int = 12, words: int = 6) -> None:
        super().__init__()
        self.frame, self.hop = frame, hop
        bins = torch.arange(frame // 2 + 1.0, dtype=torch.float64)
        angle = torch.arange(frame, dtype=torch.float64) * bins[:, None] * 2 * math.pi / frame
        window = torch.hann_window(frame, dtype=torch.float64)
        basis = torch.cat([angle.cos() * window, -angle.sin() * window])
        self.register_buffer("basis", basis[:, None].float())
        edge = torch.linspace(0, frame // 2, mels + 2, dtype=torch.float64)
        rise = (bins - edge[:-2, None]) / (edge[1:-1, None] - edge[:-2, None])
        fall = (edge[2:, None] - bins) / (edge[2:, None] - edge[1:-1, None])
        self.register_buffer("mel", torch.minimum(rise, fall).clamp(min=0).float())
        self.conv = nn.Sequential(nn.Conv1d(mels, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 24, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(24, words)

    def forward(self, wave: Tensor) -> Tensor:
        x = F.pad(wave[:, None], (self.frame // 2, self.frame // 2), mode="reflect")
        real, imaginary = F.conv1d(x, self.basis, stride=self.hop).chunk(2, 1)
        mel = torch.log(self.mel @ (real**2 + imaginary**2) + 1e-6)
        return self.head(self.conv(mel).mean(-1))


@seeded
def keywords() -> nn.Module:
    return livened(Keywords(), 1.5)


class TorchStft(Keywords):
    """The same by `torch.stft`, with complex numbers."""

    def forward(self, wave: Tensor) -> Tensor:
        window = torch.hann_window(self.frame, dtype=wave.dtype, device=wave.device)
        spectrum = torch.stft(wave, self.frame, self.hop, window=window, return_complex=True)
        mel = torch.log(self.mel @ spectrum.abs() ** 2 + 1e-6)
        return self.head(self.conv(mel).mean(-1))


@seeded
def torch_stft() -> nn.Module:
    return livened(TorchStft(), 1.5)


class Tagger(nn.Module):
    """A tag for every token: embedding, recurrent layers, linear."""

    def __init__(self, kind: type[nn.RNNBase], both: bool, words: int = 200, width: int = 32, tags: int = 7) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.rnn = kind(width, width, num_layers=2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(width * (2 if both else 1), tags)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


@seeded
def gru_tagger() -> nn.Module:
    return livened(Tagger(nn.GRU, False), 2.0)


@seeded
def lstm_tagger() -> nn.Module:
    return livened(Tagger(nn.LSTM, True), 2.0)


class Denoiser(nn.Module):
    """Speech enhancement: a mask for a spectrogram by LSTM, residual convolutions with instance statistics."""

    def __init__(self, bins: int = 40, width: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(bins)
        self.rnn = nn.LSTM(bins, width, batch_first=True)
        self.conv = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.head = nn.Linear(width, bins)

    def forward(self, spectrum: Tensor) -> Tensor:
        x, _ = self.rnn(self.norm(torch.log1p(spectrum)))
        x = x + F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return spectrum * torch.sigmoid(self.head(x))


@seeded
def denoiser() -> nn.Module:
    return livened(Denoiser(), 2.0)


class Temporal(nn.Module):
    """A causal temporal convolution network over key points, as gesture recognisers have."""

    def __init__(self, features: int = 30, width: int = 32, signs: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(features, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**i) for i in range(3))
        self.head = nn.Linear(width, signs)

    def forward(self, keypoints: Tensor) -> Tensor:
        x = self.enter(keypoints).transpose(1, 2)
        for i, conv in enumerate(self.convs):
            x = x + torch.relu(conv(F.pad(x, (2 * 2**i, 0))))
        return self.head(x[..., -1])


@seeded
def temporal() -> nn.Module:
    return livened(Temporal(), 1.5)
