"""Vision transformers of timm, torchvision and DINOv2 as our classifier."""
