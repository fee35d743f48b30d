"""From vision features to the width of the language model."""

from torch import Tensor, nn
from torch.nn import functional as F


class Projector(nn.Module):
    """Three linear layers when two towers are fused, two for a single tower; exact GELU in between."""

    def __init__(self, vision_dim: int, language_dim: int, fused: bool) -> None:
        super().__init__()
        hidden = 4 * vision_dim if fused else language_dim
        self.fc1 = nn.Linear(vision_dim, hidden)
        self.fc2 = nn.Linear(hidden, language_dim)
        if fused:
            self.fc3 = nn.Linear(language_dim, language_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, P, D_vision) -> (B, P, D_llm)."""
        x = self.fc2(F.gelu(self.fc1(features)))
        return self.fc3(F.gelu(x)) if hasattr(self, "fc3") else x
