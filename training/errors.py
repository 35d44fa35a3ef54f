"""What a tool can fail with; the command line says the message in one line.

TrainingError
├── BadSettings    a config file or an option that cannot be
├── BadRecipe      a recipe that cannot be followed
├── BadData        a file of texts or pairs is not what the recipe says
├── BadReferences  (references) a file of inputs and references is not what it should be
├── BadContender   (contenders) a model cannot be compared as asked
├── BadRequest     (plan) an evaluation cannot be done as asked
├── BadCard        (cards) the marks on a model's card do not make a pair
├── CannotProbe    (probe) the bias probe means nothing to the model
├── CannotExplain  (insight) an item cannot be shown
├── TrialFailed    (trial) a model cannot be measured
├── NotMeasured    (publish) an evaluation has failed
├── NoLessons      (distil) the teacher cannot be asked, or has not answered
├── NoSuchModel    neither a folder nor a registered model
├── CannotMake     what was asked for cannot be made of this model
├── OtherTraining  the out folder has another recipe's training, or one on other files
└── Done           not a failure: there is nothing to be done
    ├── AlreadyMade
    └── AlreadyTrained
"""

from collections.abc import Sequence
from pathlib import Path


class TrainingError(ValueError):
    """Root; the message is for the person at the terminal."""


class BadSettings(TrainingError):
    pass


class BadRecipe(TrainingError):
    pass


class BadData(TrainingError):
    pass


class NoSuchModel(TrainingError):
    def __init__(self, said: str, hint: str) -> None:
        super().__init__(f"{said} is neither a model's folder nor a registered model on this machine{hint}")
        self.said = said


class CannotMake(TrainingError):
    pass


class OtherTraining(TrainingError):
    def __init__(self, folder: Path, differs: Sequence[str]) -> None:
        super().__init__(
            f"{folder} has a training that differs in {', '.join(differs)}; go on with it by its own recipe on its own "
            "files, or name another --out"
        )
        self.folder, self.differs = folder, differs


class Done(TrainingError):
    pass


class AlreadyMade(Done):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is done already, made of the same files in the same way; --again makes it anew")
        self.folder = folder


class AlreadyTrained(Done):
    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is trained already, by this recipe on these files; for another one name another --out"
        )
        self.folder = folder
