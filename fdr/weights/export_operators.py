"""The operators that an exported network may use, by name: functions of tensors and numbers, nothing else.

An operator that reads, writes, prints, runs code, changes the memory behind a tensor, or trains is in no list.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import torch

from fdr.errors import WeightsError


class Refused(Exception):
    """A program holds something that no network needs; the message is half a sentence that follows the file's name."""

    def about(self, path: Path, saved_by: str) -> WeightsError:
        """The error for the user, with the way out."""
        return WeightsError(
            f"{str(path)!r} {self}, and fdr runs nothing but a network's own operators from a program; save the "
            f"network alone with {saved_by}, or load it yourself through py:MODULE:FACTORY."
        )


def words(text: str) -> frozenset[str]:
    """The words of a text, for a list that is easier read than quoted."""
    return frozenset(text.split())


_ATEN = words(
    """
_adaptive_avg_pool2d _adaptive_avg_pool3d _addmm_activation _aminmax _assert_async _assert_scalar
_assert_tensor_metadata _batch_norm_no_update _batch_norm_with_update _batch_norm_with_update_functional _cdist_forward
_conj _conv_depthwise2d _convolution _convolution_mode _efficient_attention_forward _embedding_bag
_embedding_bag_forward_only _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _flash_attention_forward _functional_assert_async
_functional_assert_scalar _functional_sym_constrain_range _functional_sym_constrain_range_for_size _fused_rms_norm
_grid_sampler_2d_cpu_fallback _int_mm _is_all_true _is_any_true _linalg_det _linalg_eigh _linalg_slogdet
_linalg_solve_ex _linalg_svd _local_scalar_dense _log_softmax _logcumsumexp _masked_softmax _native_batch_norm_legit
_native_batch_norm_legit_functional _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view
_pad_circular _pad_enum _pdist_forward _prelu_kernel _reshape_alias _reshape_copy _safe_softmax
_scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention
_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
_scaled_dot_product_fused_attention_overrideable _scaled_mm _shape_as_tensor _softmax _stack _thnn_fused_gru_cell
_thnn_fused_lstm_cell _to_copy _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear _unique _unique2
_unsafe_index _unsafe_index_put _unsafe_masked_index _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_int8pack_mm
_weight_norm _weight_norm_interface abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint
affine_grid_generator alias all allclose alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh
arctan arctan2 arctanh argmax argmin argsort argwhere as_strided as_strided_scatter asin asinh atan atan2 atanh
atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm bartlett_window batch_norm bernoulli bilinear
binary_cross_entropy binary_cross_entropy_with_logits bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod
cat cauchy_ cdist ceil celu chain_matmul channel_shuffle cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min
clip clone col2im column_stack combinations complex concat concatenate conj conj_physical constant_pad_nd contiguous
conv1d conv2d conv3d conv_depthwise3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy_ copysign
corrcoef cos cosh cosine_embedding_loss cosine_similarity count count_nonzero cov cross cross_entropy_loss ctc_loss
cudnn_batch_norm cudnn_convolution cudnn_grid_sampler cummax cummin cumprod cumsum cumulative_trapezoid deg2rad det
detach diag diag_embed diagflat diagonal diagonal_scatter diff digamma dim dist div divide dot dropout dsplit dstack
einsum elu embedding embedding_bag embedding_renorm_ empty empty_like empty_permuted empty_strided eq equal erf erfc
erfinv exp exp2 expand expand_as expm1 exponential_ eye fake_quantize_per_channel_affine fake_quantize_per_tensor_affine
feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn
fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft
fft_rfft2 fft_rfftfreq fft_rfftn fill fill_diagonal_ fix flatten flip fliplr flipud float_power floor floor_divide fmax
fmin fmod frac fractional_max_pool2d fractional_max_pool3d frexp frobenius_norm full full_like gather gcd ge gelu
geometric_ ger glu gradient greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell
gt hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh heaviside hinge_embedding_loss histc histogram
hsplit hstack huber_loss hypot i0 igamma igammac im2col imag index index_add index_fill index_put index_reduce
index_select inner instance_norm inverse is_complex is_floating_point is_nonzero is_same_size isclose isfinite isin
isinf isnan isneginf isposinf isreal istft item kaiser_window kl_div kron kthvalue l1_loss layer_norm lcm ldexp le
leaky_relu lerp less less_equal lgamma lift_fresh linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det
linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv
linalg_inv_ex linalg_ldl_factor linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex
linalg_lu_solve linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_matrix_rank
linalg_matrix_sqrth linalg_multi_dot linalg_norm linalg_pinv linalg_polar linalg_qr linalg_slogdet linalg_solve
linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv linalg_tensorsolve linalg_vander
linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_normal_ log_sigmoid log_sigmoid_forward
log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace
logsumexp lstm lstm_cell lt lu_unpack mH mT margin_ranking_loss masked_fill masked_scatter masked_select matmul matrix_H
matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis movedim
mse_loss msort mul multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward multinomial multiply mv
mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow native_batch_norm native_channel_shuffle native_dropout
native_group_norm native_layer_norm ne neg negative new_empty new_empty_strided new_full new_ones new_zeros nextafter
nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward nll_loss_nd nonzero nonzero_static norm norm_except_dim normal
not_equal nuclear_norm numel numpy_T one_hot ones ones_like outer pad pad_sequence pairwise_distance pdist permute
pinverse pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar polygamma positive pow prelu prod put_ quantile
rad2deg rand rand_like randint randint_like randn randn_like random_ randperm range ravel real reciprocal
reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg result_type rms_norm
rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round row_stack rrelu rsqrt rsub scalar_tensor
scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter selu sgn sigmoid sign
signbit silu sin sinc sinh size slice slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax softplus softshrink
sort special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1 special_digamma
special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1
special_gammainc special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p
special_log_ndtr special_log_softmax special_logit special_logsumexp special_modified_bessel_i0
special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_multigammaln special_ndtr
special_ndtri special_polygamma special_psi special_round special_scaled_modified_bessel_k0
special_scaled_modified_bessel_k1 special_sinc special_softmax special_spherical_bessel_j0 special_xlog1py special_xlogy
special_zeta split split_with_sizes sqrt square squeeze stack std std_mean stft stride sub subtract sum sum_to_size svd
swapaxes swapdims sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_storage_offset sym_stride t
take take_along_dim tan tanh tensor_split tensordot threshold tile to topk trace transpose trapezoid trapz tril
tril_indices triplet_margin_loss triu triu_indices true_divide trunc type_as unbind unflatten unfold uniform_
unique_consecutive unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex view_as_real vsplit vstack where xlogy zero
zeros zeros_like
    """
)
"""Names in the namespace aten. The same names with "_" (in place) or "_copy" behind them are allowed too."""
_PRIMS = words(
    """
abs acos acosh add amax amin as_strided asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor
broadcast_in_dim cat cbrt ceil clone collapse collapse_view conj conj_physical convert_element_type cos cosh
device_put digamma div empty_permuted empty_strided eq erf erf_inv erfc erfcx exp exp2 expand_dims expm1 fft_c2c
fft_c2r fft_r2c fill floor fmax fmin fmod frexp ge gt hypot iota isfinite item le lgamma log log10 log1p log2 lt
maximum maximum_value minimum minimum_value mul ndtri ne neg normal pow prod real reciprocal remainder reshape rev
round rsqrt scalar_tensor shift_left shift_right_arithmetic sign signbit sin sinh slice split_dim sqrt squeeze sub
sum svd tan tanh transpose trunc var view_element_type view_of where
    """
)
_TORCHVISION = words("nms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d")
_NAMESPACES = {"aten": _ATEN, "prims": _PRIMS, "torchvision": _TORCHVISION}
_PLAIN = words(
    """
torch.ops.higher_order.cond torch.ops.higher_order.while_loop torch.ops.higher_order.map_impl
torch.ops.higher_order.scan torch.ops.higher_order.associative_scan torch.ops.higher_order.wrap_with_set_grad_enabled
torch.ops.higher_order.wrap_with_autocast torch.sym_float torch.sym_int torch.sym_ite torch.sym_max torch.sym_min
torch.sym_not torch.sym_sqrt torch.sym_sum torch._sym_sqrt math.trunc math.ceil math.floor math.sqrt _operator.getitem
_operator.add _operator.sub _operator.mul _operator.truediv _operator.floordiv _operator.mod _operator.pow _operator.neg
_operator.pos _operator.and_ _operator.or_ _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge
    """
)
_OPERATOR = re.compile(r"torch\.ops\.([a-z]+)\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)", re.ASCII)


def is_tensor_operator(namespace: str, name: str) -> bool:
    """True when this is an operator of the lists above, in whichever overload."""
    known = _NAMESPACES.get(namespace, frozenset())
    return any(base in known for base in (name, name.removesuffix("_"), name.removesuffix("_copy")))


def is_allowed(target: str) -> bool:
    """True when this is how an export writes an operator of the lists above, and this torch has that overload."""
    if target in _PLAIN:
        return True
    match = _OPERATOR.fullmatch(target)
    if match is None or not is_tensor_operator(match[1], match[2]):
        return False
    if match[1] == "torchvision":
        with contextlib.suppress(ImportError):
            import torchvision  # noqa: F401  registers its operators
    packet: Any = getattr(getattr(torch.ops, match[1]), match[2], None)
    return packet is not None and match[3] in packet.overloads()
