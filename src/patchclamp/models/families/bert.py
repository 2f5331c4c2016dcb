"""BERT: a bidirectional encoder that normalises after each sublayer."""

from patchclamp.models.family import Family

FAMILY = Family(
    name="bert",
    model_types=("bert",),
    layers="encoder.layer",
    embed="embeddings.word_embeddings",
    final_norm=None,
    attn="attention",
    mlp=None,
    sites={
        "attn_in": "attention:in",
        "q": "attention.self.query:out",
        "k": "attention.self.key:out",
        "v": "attention.self.value:out",
        "attn_pattern": "attention.self:out[1]",
        "z": "attention.output.dense:in",
        "attn_out": "attention.output.dense:out",
        "resid_mid": "attention:out",
        "mlp_in": "intermediate:in",
        "mlp_pre": "intermediate.dense:out",
        "mlp_act": "output.dense:in",
        "mlp_out": "output.dense:out",
    },
    refused={"final_norm": "BERT ends in the last layer's own norm; use resid_post"},
    residual="post_norm",
    causal=False,
)
