from .blame import explain as explain
from .blame import explain_with as explain_with
from .blame import plan_of as plan_of
from .picture import check_drawable as check_drawable
from .picture import write_picture as write_picture
from .results import ClassShare as ClassShare
from .results import EncoderInfluences as EncoderInfluences
from .results import Explanation as Explanation
