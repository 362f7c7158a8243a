"""Studies: questions to a network over many images, whose answers are saved whole."""
