"""Scripts as PyTorch's users have them, run by torch and by nanogen: only the imports differ, and where the random
numbers come from.  The same weights, images and noise have to give the same losses, and the same weights afterwards.

The networks, the losses and the loops are those of PyTorch's examples `dcgan` and `vae`, smaller, and of the gradient
penalty of Gulrajani et al. 2017 as it is found everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nanogen.nn.functional
import numpy as np
import pytest
import torch

import nanogen
import nanogen.autograd
import nanogen.nn
import nanogen.optim

THEIRS = SimpleNamespace(torch=torch, nn=torch.nn, F=torch.nn.functional, optim=torch.optim, autograd=torch.autograd)
OURS = SimpleNamespace(
    torch=nanogen, nn=nanogen.nn, F=nanogen.nn.functional, optim=nanogen.optim, autograd=nanogen.autograd
)


class Noise:
    """The random numbers of a script, the same for both."""

    def __init__(self, library: Any):
        self.tensor, self.rng = library.torch.tensor, np.random.default_rng(1)

    def normal(self, *size: int) -> Any:
        return self.tensor(self.rng.standard_normal(size))

    def uniform(self, *size: int) -> Any:
        return self.tensor(self.rng.random(size))


def dcgan(library: Any, start: Any, images: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """pytorch/examples, dcgan/main.py: what is in it between the data and the pictures."""
    torch, nn, optim, noise = library.torch, library.nn, library.optim, Noise(library)
    nz, ngf, ndf, nc = 6, 4, 4, 2

    def weights_init(m):
        classname = m.__class__.__name__
        if classname.find("Conv") != -1:
            torch.nn.init.normal_(m.weight, 0.0, 0.02)
        elif classname.find("BatchNorm") != -1:
            torch.nn.init.normal_(m.weight, 1.0, 0.02)
            torch.nn.init.zeros_(m.bias)

    class Generator(nn.Module):
        def __init__(self, ngpu):
            super().__init__()
            self.ngpu = ngpu
            self.main = nn.Sequential(
                nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
                nn.BatchNorm2d(ngf * 4),
                nn.ReLU(True),
                nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(ngf * 2),
                nn.ReLU(True),
                nn.ConvTranspose2d(ngf * 2, nc, 4, 2, 1, bias=False),
                nn.Tanh(),
            )

        def forward(self, input):
            assert not input.is_cuda
            return self.main(input)

    class Discriminator(nn.Module):
        def __init__(self, ngpu):
            super().__init__()
            self.ngpu = ngpu
            self.main = nn.Sequential(
                nn.Conv2d(nc, ndf, 4, 2, 1, bias=False),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(ndf * 2),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(ndf * 2, 1, 4, 1, 0, bias=False),
                nn.Sigmoid(),
            )

        def forward(self, input):
            output = self.main(input)
            return output.view(-1, 1).squeeze(1)

    device = torch.device("cpu")
    torch.manual_seed(3)
    netG = Generator(1).to(device).double()
    netG.apply(weights_init)
    netD = Discriminator(1).to(device).double()
    netD.apply(weights_init)
    weights = netG.main[0].weight
    assert abs(float(weights.std()) - 0.02) < 0.004, "DCGAN's first weights are N(0, 0.02²)"
    assert float(abs(netG.main[1].weight - 1).max()) < 0.1
    assert "ConvTranspose2d" in repr(netG)
    if start is not None:
        netG.load_state_dict(start["G"])
        netD.load_state_dict(start["D"])
    begin = {"G": copied(netG.state_dict()), "D": copied(netD.state_dict())}

    criterion = nn.BCELoss()
    real_label, fake_label = 1, 0
    optimizerD = optim.Adam(netD.parameters(), lr=0.002, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=0.002, betas=(0.5, 0.999))
    losses = []
    for data in (torch.tensor(images), torch.tensor(images[::-1].copy()), torch.tensor(images[:4])):
        # (1) Update D network: maximize log(D(x)) + log(1 - D(G(z)))
        netD.zero_grad()
        real_cpu = data.to(device)
        batch_size = real_cpu.size(0)
        label = torch.full((batch_size,), real_label, dtype=real_cpu.dtype, device=device)
        output = netD(real_cpu)
        errD_real = criterion(output, label)
        errD_real.backward()
        D_x = output.mean().item()
        z = noise.normal(batch_size, nz, 1, 1)
        fake = netG(z)
        label.fill_(fake_label)
        output = netD(fake.detach())
        errD_fake = criterion(output, label)
        errD_fake.backward()
        D_G_z1 = output.mean().item()
        errD = errD_real + errD_fake
        optimizerD.step()
        # (2) Update G network: maximize log(D(G(z)))
        netG.zero_grad()
        label.fill_(real_label)
        output = netD(fake)
        errG = criterion(output, label)
        errG.backward()
        D_G_z2 = output.mean().item()
        optimizerG.step()
        losses += [errD.item(), errG.item(), D_x, D_G_z1, D_G_z2]
    return losses, {"begin": begin, "G": netG.state_dict(), "D": netD.state_dict()}


def vae(library: Any, start: Any, images: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """pytorch/examples, vae/main.py: the model, the loss, an epoch of training and one of testing."""
    torch, nn, F, optim, noise = library.torch, library.nn, library.F, library.optim, Noise(library)
    torch.manual_seed(1)
    size = images[0].size

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(size, 40)
            self.fc21 = nn.Linear(40, 5)
            self.fc22 = nn.Linear(40, 5)
            self.fc3 = nn.Linear(5, 40)
            self.fc4 = nn.Linear(40, size)

        def encode(self, x):
            h1 = F.relu(self.fc1(x))
            return self.fc21(h1), self.fc22(h1)

        def reparameterize(self, mu, logvar):
            std = torch.exp(0.5 * logvar)
            assert torch.randn_like(std).shape == std.shape
            eps = noise.normal(*std.size())
            return mu + eps * std

        def decode(self, z):
            h3 = F.relu(self.fc3(z))
            return torch.sigmoid(self.fc4(h3))

        def forward(self, x):
            mu, logvar = self.encode(x.view(-1, size))
            z = self.reparameterize(mu, logvar)
            return self.decode(z), mu, logvar

    device = torch.device("cuda" if torch.cuda.is_available() and library is None else "cpu")
    model = VAE().to(device).to(torch.float64)
    if start is not None:
        model.load_state_dict(start)
    begin = copied(model.state_dict())
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def loss_function(recon_x, x, mu, logvar):
        BCE = F.binary_cross_entropy(recon_x, x.view(-1, size), reduction="sum")
        KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return BCE + KLD

    losses = []
    model.train()
    for part in np.split(images, 4):
        data = torch.tensor(part).to(device)
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        losses.append(loss.item() / len(data))
        optimizer.step()
    model.eval()
    with torch.no_grad():
        data = torch.tensor(images[:3])
        recon_batch, mu, logvar = model(data)
        losses.append(loss_function(recon_batch, data, mu, logvar).item())
        n = min(data.size(0), 8)
        comparison = torch.cat([data[:n], recon_batch.view(3, *images.shape[1:])[:n]]).cpu()
        losses += comparison.sum(dim=(1, 2, 3)).tolist()
        sample = model.decode(noise.normal(2, 5).to(device)).cpu()
        losses += sample.view(2, -1).mean(1).tolist()
    return losses, {"begin": begin, **model.state_dict()}


def wgan_gp(library: Any, start: Any, images: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """Gulrajani et al. 2017, algorithm 1, as scripts have it: n_critic steps of the critic to one of the generator."""
    torch, nn, optim, autograd, noise = library.torch, library.nn, library.optim, library.autograd, Noise(library)
    torch.manual_seed(2)
    shape, latent_dim, lambda_gp, n_critic = images.shape[1:], 3, 10, 2

    class Generator(nn.Module):
        def __init__(self):
            super().__init__()

            def block(in_feat, out_feat, normalize=True):
                layers = [nn.Linear(in_feat, out_feat)]
                if normalize:
                    layers.append(nn.BatchNorm1d(out_feat, 0.8))
                layers.append(nn.LeakyReLU(0.2, inplace=True))
                return layers

            self.model = nn.Sequential(
                *block(latent_dim, 8, normalize=False), *block(8, 16), nn.Linear(16, math.prod(shape)), nn.Tanh()
            )

        def forward(self, z):
            img = self.model(z)
            return img.view(img.shape[0], *shape)

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(
                nn.Conv2d(shape[0], 4, 3, 2, 1), nn.InstanceNorm2d(4, affine=True), nn.SiLU(), nn.Flatten()
            )
            self.model = nn.ModuleList([nn.Linear(4 * 8 * 8, 6), nn.Softplus(), nn.Dropout(0.0), nn.Linear(6, 1)])

        def forward(self, img):
            h = self.conv(img)
            for layer in self.model:
                h = layer(h)
            return h

    def compute_gradient_penalty(D, real_samples, fake_samples):
        alpha = noise.uniform(real_samples.size(0), 1, 1, 1)
        interpolates = (alpha * real_samples + ((1 - alpha) * fake_samples)).requires_grad_(True)
        d_interpolates = D(interpolates)
        gradients = autograd.grad(
            outputs=d_interpolates,
            inputs=interpolates,
            grad_outputs=torch.ones(d_interpolates.size(), dtype=torch.float64),
            create_graph=True,
            retain_graph=True,
            only_inputs=True,
        )[0]
        gradients = gradients.view(gradients.size(0), -1)
        return ((gradients.norm(2, dim=1) - 1) ** 2).mean()

    generator, discriminator = Generator().double(), Discriminator().double()
    if start is not None:
        generator.load_state_dict(start["G"])
        discriminator.load_state_dict(start["D"])
    begin = {"G": copied(generator.state_dict()), "D": copied(discriminator.state_dict())}
    optimizer_G = optim.RMSprop(generator.parameters(), lr=1e-3)
    optimizer_D = optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses, real_imgs = [], torch.tensor(images)
    for step in range(4):
        for p in discriminator.parameters():
            p.requires_grad = True
        optimizer_D.zero_grad()
        fake_imgs = generator(noise.normal(len(images), latent_dim)).detach()
        gradient_penalty = compute_gradient_penalty(discriminator, real_imgs, fake_imgs)
        d_loss = -torch.mean(discriminator(real_imgs)) + torch.mean(discriminator(fake_imgs))
        d_loss = d_loss + lambda_gp * gradient_penalty
        d_loss.backward()
        optimizer_D.step()
        losses += [d_loss.item(), gradient_penalty.item()]
        if step % n_critic == 0:
            for p in discriminator.parameters():
                p.requires_grad = False
            optimizer_G.zero_grad()
            g_loss = -torch.mean(discriminator(generator(noise.normal(len(images), latent_dim))))
            g_loss.backward()
            optimizer_G.step()
            losses.append(g_loss.item())
    return losses, {"begin": begin, "G": generator.state_dict(), "D": discriminator.state_dict()}


def ddpm(library: Any, start: Any, images: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """A denoising diffusion with a small U-Net, time embedded by sines, and two steps back."""
    torch, nn, F, optim, noise = library.torch, library.nn, library.F, library.optim, Noise(library)
    T = 10

    class Block(nn.Module):
        def __init__(self, cin, cout, time):
            super().__init__()
            self.conv = nn.Conv2d(cin, cout, 3)
            self.mix = nn.Conv2d(cout, cout, 3, 1, 1, 1, cout, False)
            self.norm, self.time, self.act = nn.GroupNorm(2, cout), nn.Linear(time, cout), nn.SiLU()

        def forward(self, x, t):
            h = self.act(self.norm(self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")))) + self.time(t)[:, :, None, None]
            return self.act(self.mix(h))

    class UNet(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.downs = nn.ModuleList([Block(c, 4, 8), Block(4, 8, 8)])
            self.ups = nn.ModuleList([Block(12, 4, 8), Block(4 + c, 4, 8)])
            self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.last, self.skip = nn.Conv2d(4, c, 1), nn.Identity()

        def embed(self, t):
            freqs = torch.exp(-math.log(100.0) * torch.arange(4, dtype=torch.float64) / 4)
            args = t[:, None].double() * freqs[None]
            return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)

        def forward(self, x, t):
            t, first = self.embed(t), x
            h = self.downs[0](x, t)
            low = self.downs[1](self.pool(h), t)
            h = self.ups[0](torch.cat([self.up(low), h], dim=1), t)
            return self.last(self.ups[1](torch.cat([self.skip(h), first], dim=1), t))

    torch.manual_seed(0)
    model = UNet(images.shape[1]).double()
    if start is not None:
        model.load_state_dict(start)
    begin = copied(model.state_dict())
    opt = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    alphabar = torch.tensor(np.cumprod(1 - np.linspace(1e-3, 0.3, T)))
    assert torch.randint(0, T, (5,)).size() == torch.zeros(5).shape
    losses = []
    for step in range(3):
        x = torch.tensor(images)
        t = torch.tensor((np.arange(len(images)) * 3 + step) % T)
        eps = noise.normal(*x.size())
        ab = alphabar[t].view(-1, 1, 1, 1)
        loss = F.mse_loss(model(ab.sqrt() * x + (1 - ab).sqrt() * eps, t), eps)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    with torch.no_grad():
        x = noise.normal(2, *images.shape[1:])
        for t in range(2, 0, -1):
            x = (x - 0.1 * model(x, torch.full((2,), t))).clamp(-1, 1)
        losses += x.flatten(1).max(dim=1)[0].tolist()
        losses += [x.argmax().item(), x.std().item(), x.numel(), x.dim(), x[0].prod().item()]
    return losses, {"begin": begin, **model.state_dict()}


def copied(state: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in state.items()}


def flat(state: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dictionaries of arrays as one."""
    if not hasattr(state, "items"):
        return {prefix: np.asarray(state)}
    return {k: v for name, part in state.items() for k, v in flat(part, f"{prefix}.{name}").items()}


@pytest.mark.parametrize("script", [dcgan, vae, wgan_gp, ddpm])
def test_a_script_gives_torchs_losses(script: Callable[..., Any]) -> None:
    """In float64 and from the same weights, images and noise: each loss within 1e-9 of torch's, relative to 1, the
    weights and buffers after the last step within 1e-8, under the same names."""
    images = np.random.default_rng(0).random((8, 2, 16, 16))
    expected, theirs = script(THEIRS, None, images)
    start = {k: {n: torch.tensor(v) for n, v in part.items()} if isinstance(part, dict) else torch.tensor(part)
             for k, part in theirs["begin"].items()}  # fmt: skip
    found, ours = script(OURS, start, images)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    theirs, ours = flat(theirs), flat(ours)
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-8, atol=1e-8, err_msg=name)
    assert any(abs(theirs[name] - theirs[f".begin{name}"]).max() > 1e-4 for name in theirs if "weight" in name[-9:]
               and f".begin{name}" in theirs), "something was learned"  # fmt: skip
