"""KServe's own transformer, which hands requests and answers on: empty_transformer.py --help.

What the gateway's throughput is compared with: a transformer with KServe's defaults that does
nothing of its own.
"""

from __future__ import annotations

import argparse

from kserve import Model, ModelServer, model_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, parents=[model_server.parser])
    model = Model(parser.parse_args().model_name)
    model.load()
    ModelServer().start([model])


if __name__ == "__main__":
    main()
