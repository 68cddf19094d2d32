"""stepvideo: train a video foundation model the way the Step-Video-T2V report describes."""

__version__ = "0.1.0"
