"""Types of the compiled module; see csrc/ops/build_facts.cpp."""

version: str
compiler: str
cuda_architectures: str

def instruction_sets() -> dict[str, bool]: ...
def instruction_set() -> str: ...
