"""The operators that add, multiply, move or look up values, in the words of every format and of PyTorch. Pure.

Nothing that these compute bends, jumps or rises steeply by itself. Quotients are among them.
"""

from __future__ import annotations

_ARITHMETIC = """
    linear_activation add add_n addn accumulate_n sub subtract rsub mul multiply div divide
    true_divide real_div realdiv floatdiv neg negative square squared_difference sum reduce_sum
    reducesum sum_to_size mean reduce_mean reducemean globalaveragepool averagepool
    average_pool_2d avg_pool avg_pool1d avg_pool2d avg_pool3d _avg_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    mkldnn_adaptive_avg_pool2d reducesumsquare reduce_sum_square var var_mean scaled_add addcmul
    addcdiv lerp cumsum cumulativesum cumsum_ reciprocal inverse eltwise binaryop scale bias
    axpy
"""
_PRODUCTS = """
    matmul mm bmm mv dot vdot inner outer ger addmm addmv addbmm baddbmm addr linear gemm
    fusedmatmul fusedgemm fully_connected inner_product innerproduct batch_matmul batchmatmul
    einsum chain_matmul linalg_multi_dot linalg_matmul tensordot kron cross linalg_cross
    bilinear trilinear _trilinear conv conv1d conv2d conv3d conv_2d conv_3d depthwise_conv_2d
    convtranspose conv_transpose conv_transpose1d conv_transpose2d conv_transpose3d
    conv_transpose_3d transpose_conv convolution _convolution convolution_overrideable
    mkldnn_convolution fusedconv convolutiondepthwise convolution1d convolutiondepthwise1d
    convolution3d deconvolution deconvolutiondepthwise convolutiondepthwise3d deconvolution1d
    deconvolution3d deconvolutiondepthwise1d deconvolutiondepthwise3d spectrogram
    inversespectrogram rotaryembed nhwcfusedconv conv_tbc thnn_conv2d _slow_conv2d_forward
    slow_conv3d slow_conv_dilated2d slow_conv_transpose2d _conv_depthwise2d mkldnn_linear
    _mkldnn_linear linear_dynamic fft fft_c2c fft_r2c fft_c2r _fft_c2c _fft_r2c _fft_c2r fft_fft
    fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn
    fft_rfftn fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift stft istft dft rfft2d
    rfft_2d rfft irfft ifft complex_stft qlinearconv qlinearmatmul matmulinteger convinteger
    dynamicquantizematmul matmulintegertofloat matmulnbits qgemm qlinearadd qlinearmul
    qlinearaveragepool qlinearglobalaveragepool qlinearconcat qattention
"""
_NORMALISING = """
    batch_norm batchnorm batchnormalization native_batch_norm
    _native_batch_norm_legit_no_training _native_batch_norm_legit _batch_norm_impl_index
    _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm miopen_batch_norm
"""
_MOVING = """
    format extend insert pop keys values items _set_item __setitem identity copy copyto noop nop
    memorydata split reshape view _unsafe_view view_as reshape_as _reshape_alias unsqueeze
    squeeze expanddims expand_dims expand expand_as broadcast_to broadcastto tile repeat
    repeat_interleave fill flatten unflatten ravel transpose permute swapaxes swapdims movedim
    moveaxis t numpy_t mt adjoint concat concatenation concat_v2 cat concatenate stack hstack
    vstack dstack column_stack pack unpack unbind chunk tensor_split split_v split_with_sizes
    split_copy hsplit vsplit dsplit slice strided_slice stridedslice slice_by_index
    slice_by_size slice_scatter slice_update select select_scatter select_v2 index_select narrow
    narrow_copy crop crop_resize centercroppad gather gather_nd gathernd gatherelements
    gather_along_axis take take_along_dim index _unsafe_index _unsafe_masked_index embedding
    embedding_lookup embed index_put _index_put_impl _unsafe_index_put index_fill index_copy
    index_add put masked_scatter masked_fill masked_select scatter scatter_add scatter_nd
    scatternd scatterelements scatter_elements scatter_along_axis diagonal_scatter
    as_strided_scatter fill_diagonal tensorscatternd tensor_scatter_update dynamic_update_slice
    dynamicupdateslice copy_ pad padv2 pad_v2 mirror_pad mirrorpad constant_pad_nd constant_pad
    padding reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d _pad_circular circular_pad flip fliplr flipud reverse
    reverse_v2 reversev2 reversesequence reverse_sequence rot90 roll pixel_shuffle
    pixel_unshuffle pixelshuffle channel_shuffle native_channel_shuffle shufflechannel
    depth_to_space space_to_depth depthtospace spacetodepth batch_to_space space_to_batch
    batch_to_space_nd space_to_batch_nd reorg unfold fold im2col col2im sliding_windows tril
    triu trilu band_part matrix_diag matrix_set_diag diag diagonal diag_embed diagflat
    linalg_diagonal trace meshgrid as_strided contiguous clone detach alias lift_fresh_copy
    lift_fresh set_data to _to_copy type_as type cast castlike float double half bfloat16 int
    long bool quantizelinear dequantizelinear dynamicquantizelinear quantize dequantize
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine quantize_per_tensor
    quantize_per_channel real imag view_as_real view_as_complex complex polar conj resolve_conj
    resolve_neg _conj _neg_view conj_physical complex_real complex_imag where dropout
    feature_dropout alpha_dropout squeeze_copy unsqueeze_copy expand_copy permute_copy view_copy
    slice_copy select_copy packing atleast_1d atleast_2d atleast_3d lift new_tensor to_dense
    memory_format block_diag cartesian_prod combinations hash_table_lookup var_handle
    read_variable assign_variable read_state write_state coreml_update_state state expandnd
    broadcast_tensors sequenceconstruct sequenceat splittosequence concatfromsequence
    listconstruct listunpack tupleconstruct tupleunpack dictconstruct __getitem__ getitem append
    concat_from_sequence list item __derive_index unchecked_cast
"""
_SHAPED = """
    shape size numel len dim sym_size sym_numel sym_stride rank range arange linspace zeros ones
    full empty zeros_like ones_like full_like empty_like rand_like new_zeros new_ones new_full
    new_empty new_empty_strided empty_strided zeros_like_ constantofshape constant fill_like
    scalar_tensor tensor as_tensor eye eyelike numtotensor scalarimplicit intimplicit
    floatimplicit _local_scalar_dense broadcast_args affine_grid affine_grid_generator
    affinegrid _assert_async _assert_scalar _assert_tensor_metadata sym_constrain_range
    sym_constrain_range_for_size print raiseexception warn uninitialized sin cos gathershape
"""
_RESIZING = """
    resize resize_bilinear resize_nearest_neighbor resizebilinear resizenearestneighbor upsample
    interp interpolate upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_bilinear
    upsample_nearest_neighbor __interpolate
"""
_READ_ELSEWHERE = """
    relu relu6 relu_n1_to_1 relu_0_to_1 hardtanh clamped_relu thresholded_relu threshold eq ne
    lt le gt ge equal not_equal notequal less greater less_equal greater_equal lessequal
    greaterequal lessorequal greaterorequal logical_and logical_or logical_not logical_xor
    bitwise_and bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__ __not__ isnan isinf
    isfinite nan_to_num any all sign sgn argmax argmin topk top_k topk_v2 sort argsort msort
    nonzero nonzero_numpy bucketize searchsorted isin heaviside floor ceil round trunc fix rint
    one_hot onehot unique unique2 _unique2 unique_dim unique_consecutive nms nonmaxsuppression
    non_maximum_suppression non_max_suppression non_max_suppression_v4 non_max_suppression_v5
    hardshrink softshrink shrink prod cumprod reduceprod reduce_prod
"""
PLAIN = frozenset(
    word.rstrip("_")
    for words in (_ARITHMETIC, _PRODUCTS, _NORMALISING, _MOVING, _SHAPED, _RESIZING, _READ_ELSEWHERE)
    for word in words.split()
)
"""Bare operators in lower case, without a last underscore. Products (`prod`, `cumprod`) are told as open in
docs/battery.md; those that decide or bound are read by `formats/survey.py`."""
