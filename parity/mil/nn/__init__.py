"""Neural network specifications: the older form of Core ML files, evaluated like programs.

``parity.mil.load`` opens them too. A network is a list of layers over fp32 values, with the preprocessing of images
and the labels of a classifier beside it. Evaluated are the layers that coremltools 9 emits for convolutional
networks, transformers and recurrent networks, and their near relatives; others are refused by name. The layers'
documentation is the schema itself, ``NeuralNetwork.proto``:
https://apple.github.io/coremltools/mlmodel/Format/NeuralNetwork.html
"""
