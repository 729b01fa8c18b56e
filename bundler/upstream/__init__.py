"""What upstream says of an image, collected on the connected side: asked, classified, completed, made a component."""
