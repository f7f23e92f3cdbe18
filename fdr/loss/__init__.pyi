from .fd_loss import FDLoss as FDLoss
from .options import GRADIENTS as GRADIENTS
from .options import SOLVERS as SOLVERS
from .options import BatchPopulation as BatchPopulation
from .options import EmaPopulation as EmaPopulation
from .options import LossOptions as LossOptions
from .options import QueuePopulation as QueuePopulation
from .output import LossOutput as LossOutput
