"""What other tools' names of metrics mean here, for the errors that meet them."""

from __future__ import annotations

_OF_AUTOENCODERS = "is a number of an autoencoder; fdr ifid and fdr recon measure it"
_NOT_YET = "is not offered yet"
_FD = "is the metric fd"
_WITH_INCEPTION = f"{_FD} of the encoder inception (--metrics fd --reps inception, and fd:inception in limits)"
_OTHER_PROMPTS = "is not offered; clip_score compares images with their prompts"
_ELSEWHERE = "is measured by a tool of its own; fdr report --add"

PEER_NAMES = {
    **dict.fromkeys(("fid", "fid50k", "fid10k", "fid5k", "fid50k_full", "frechet_inception_distance"), _WITH_INCEPTION),
    **dict.fromkeys(("frechet", "frechet_distance", "fad", "wasserstein"), _FD),
    **dict.fromkeys(("clean_fid", "fid_clean", "cleanfid"), f"{_FD} of the encoder inception:clean"),
    **dict.fromkeys(("pytorch_fid",), f"{_FD} of the encoder inception:pytorch-fid"),
    **dict.fromkeys(("fd_dino", "fd_dinov2", "dino_fd", "dinov2_fd", "dino_fid"), f"{_FD} of an encoder dinov2"),
    **dict.fromkeys(("clip_fid", "clip_fd", "fid_clip", "fd_clip"), f"{_FD} of an encoder clip (clip:clean-fid)"),
    **dict.fromkeys(("fid_infinity", "fid_inf", "fd_infinity"), "is the metric fd_inf"),
    **dict.fromkeys(("is_infinity", "isc_inf"), "is the metric is_inf"),
    **dict.fromkeys(("spatial_fid", "s_fid", "fd_spatial"), "is the metric sfid"),
    **dict.fromkeys(("isc", "inception_score", "inceptionscore", "inception"), "is the metric is"),
    **dict.fromkeys(
        ("fdr6", "fdr^6", "fdr^k", "fdrk"), "is fdr_k, which comes with fd of several encoders (--reps fdr6)"
    ),
    **dict.fromkeys(("kid50k", "kid50k_full", "kid10k", "kernel_inception_distance", "kd", "mmd"), "is the metric kid"),
    **dict.fromkeys(("clip_mmd", "jmmd"), "is the metric cmmd, of the encoder clip:cmmd"),
    **dict.fromkeys(("mind6", "mind^6", "mind^k", "mindk"), "is mind_k, which comes with mind of several encoders"),
    **dict.fromkeys(("vendi_score", "vs"), "is the metric vendi"),
    **dict.fromkeys(("monge_inception_distance",), "is the metric mind"),
    **dict.fromkeys(("swd", "sw", "sliced_wasserstein", "sliced_wasserstein_distance"), "is the metric sw2"),
    **dict.fromkeys(("c_t", "ct_score"), "is the metric ct"),
    **dict.fromkeys(("auth_pct", "authenticity", "auth"), "is the metric authpct"),
    **dict.fromkeys(("prd", "prd_f_8", "f_8", "f8", "f1/8", "f_1/8"), "is the metrics prd_f8 and prd_f1_8"),
    **dict.fromkeys(
        ("prdc", "prc", "pr", "pr50k3_full", "precision_recall", "precision_and_recall"),
        "stands for several metrics: precision, recall, density, coverage; prdc itself has precision:prdc, recall:prdc",
    ),
    **dict.fromkeys(("clip", "clipscore", "clip_s", "clip_t"), "is the metric clip_score, with --prompts"),
    **dict.fromkeys(("image_reward", "imagereward", "pickscore", "hps", "hpsv2"), _OTHER_PROMPTS),
    **dict.fromkeys(("vqascore", "vqa_score"), _OTHER_PROMPTS),
    **dict.fromkeys(("geneval", "gen_eval"), f"{_ELSEWHERE} geneval=FILE reads its results"),
    **dict.fromkeys(("dpg", "dpg_bench", "dpgbench"), f"{_ELSEWHERE} dpg_bench=FILE reads its results"),
    **dict.fromkeys(("hpsv3", "hps_v3"), f"{_ELSEWHERE} hpsv3=FILE reads its results"),
    **dict.fromkeys(("ppl", "ppl2_wend", "perceptual_path_length", "fls"), _NOT_YET),
    **dict.fromkeys(("rarity", "topp&r", "gs", "nnd"), _NOT_YET),
    **dict.fromkeys(("ifd", "ifid", "rfd", "rfid", "nfd", "psnr", "ssim", "ms_ssim", "lpips"), _OF_AUTOENCODERS),
    **dict.fromkeys(
        ("cas", "nas", "classification_accuracy_score"),
        "is measured by fdr cas, which trains classifiers; cas_linear and cas_knn are cheap relatives of it",
    ),
    **dict.fromkeys(("fd_class", "class_fid", "fid_per_class", "intra_fid"), "is the metric fd_per_class"),
    **dict.fromkeys(("cfid", "conditional_fid", "conditional_fd", "cfd"), "is the metric fd_conditional"),
    **dict.fromkeys(("fjd", "joint_fid", "joint_fd", "frechet_joint_distance"), "is the metric fd_joint"),
    **dict.fromkeys(("mse", "l1", "l2", "dists"), f"{_NOT_YET}; fdr recon measures PSNR, SSIM, MS-SSIM and LPIPS"),
}
"""What other tools' names of metrics mean here, as the rest of a sentence; in lower case, with underscores."""
