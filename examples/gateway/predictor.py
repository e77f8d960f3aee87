"""The model server of this example: KServe with a model's file. Nobody but the gateway asks it.

python predictor.py --model_name=digits --model_dir=/mnt/models
"""

import argparse
from pathlib import Path

from kserve import InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.errors import InvalidInput
from kserve.utils.utils import get_predict_response

from aeppt.serving.model_files import load_model_file


class FileModel(Model):
    """A model's file as KServe wants it."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name)
        self.classify = load_model_file(file)
        self.ready = True

    def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        """Probabilities of the classes, in the output that KServe calls output-0."""
        try:
            answer = self.classify({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        response: InferResponse = get_predict_response(payload, answer["probabilities"], self.name)
        return response


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--model_dir", type=Path, default="/mnt/models")
    options = parser.parse_args()
    ModelServer().start([FileModel(options.model_name, options.model_dir / "model.skops")])
