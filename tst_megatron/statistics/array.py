"""The arrays that figures are worked out from."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""float64 ``[n]``; NaN where the source tells nothing."""
