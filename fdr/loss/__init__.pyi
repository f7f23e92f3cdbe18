from .fd_loss import FDLoss as FDLoss
from .fd_loss import LossOutput as LossOutput
from .populations import GRADIENTS as GRADIENTS
from .populations import SOLVERS as SOLVERS
from .populations import BatchPopulation as BatchPopulation
from .populations import EmaPopulation as EmaPopulation
from .populations import ExactPopulation as ExactPopulation
from .populations import QueuePopulation as QueuePopulation
