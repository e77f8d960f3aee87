"""In front of real models: the gateway, files of models that it serves itself, and Ray."""
