"""List the components of the training loop."""

from methods import Method
from orchestrator.training.capabilities.component import Component
from orchestrator.training.capabilities.feature_maps import FeatureMapsComponent
from orchestrator.training.capabilities.look_ahead import LookAheadComponent
from orchestrator.training.capabilities.memory_bank import MemoryBankComponent
from orchestrator.training.capabilities.peers import PeersComponent
from orchestrator.training.capabilities.plots import PlotsComponent
from orchestrator.training.capabilities.sample_weights import SampleWeightsComponent
from orchestrator.training.capabilities.teacher_update import TeacherUpdateComponent

# in the order in which the hooks are called
COMPONENTS: list[type[Component]] = [
    FeatureMapsComponent,
    LookAheadComponent,
    PeersComponent,
    SampleWeightsComponent,
    TeacherUpdateComponent,
    MemoryBankComponent,
    PlotsComponent,
]


def select_components(method: Method, epochs: int) -> list[type[Component]]:
    """Return the components that a trial of `epochs` epochs with this method has, in order."""
    return [component for component in COMPONENTS if component.serves(method, epochs)]
