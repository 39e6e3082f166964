"""Drawing images from a trained generator: the pipeline and resumable folders of samples."""
