"""The operators that the gate takes: what networks over sensor windows are made of.

The rest of ONNX is for text, images, detection, training and chance. Some of it has ended a process on
attributes that onnx's own checker lets pass (GatherND, RandomUniform), so it stays outside.
"""

from __future__ import annotations

_VALUE_BY_VALUE = """
    Abs Neg Sign Ceil Floor Round Sqrt Reciprocal Exp Log Pow Erf Sin Cos Tan Tanh Sigmoid Add Sub Mul Div Mod
    Min Max Sum Mean Clip And Or Xor Not Equal Greater GreaterOrEqual Less LessOrEqual Where IsNaN IsInf
    Relu LeakyRelu PRelu Elu Selu Celu Gelu HardSigmoid HardSwish Mish Softplus Softsign ThresholdedRelu
"""
_LAYERS = """
    Conv ConvTranspose Gemm MatMul AveragePool MaxPool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool
    BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LpNormalization LRN
    MeanVarianceNormalization Softmax LogSoftmax Dropout Identity LSTM GRU RNN
"""
_REDUCTIONS = """
    ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceSumSquare ArgMax ArgMin CumSum TopK
"""
_SHAPES = """
    Reshape Flatten Transpose Squeeze Unsqueeze Concat Split Slice Gather GatherElements Pad Expand Tile
    Shape Size Constant ConstantOfShape Range Cast CastLike DepthToSpace SpaceToDepth Resize
"""
_PRECISION = """
    QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger
"""

OPERATORS = frozenset((_VALUE_BY_VALUE + _LAYERS + _REDUCTIONS + _SHAPES + _PRECISION).split())
