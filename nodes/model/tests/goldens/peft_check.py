"""Adapters read and written by `peft`.

    peft_check.py read BASE ADAPTER IDS      logits of BASE with ADAPTER
    peft_check.py write BASE ADAPTER IDS     makes an adapter with random weights in ADAPTER; logits of BASE with it

IDS are token ids with commas between them. Prints {"logits": [...]}, row-major.
"""
import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

mode, base, folder, ids = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
if mode == "read":
    model = PeftModel.from_pretrained(model, folder)
else:
    gpt2 = model.config.model_type == "gpt2"
    targets = ["c_attn", "mlp.c_proj"] if gpt2 else ["k_proj", "v_proj", "gate_proj", "o_proj"]
    model = get_peft_model(model, LoraConfig(r=5, lora_alpha=7, use_rslora=not gpt2, target_modules=targets, fan_in_fan_out=gpt2,
                                             modules_to_save=["wte" if gpt2 else "embed_tokens", "lm_head"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.2)
        # Embedding and head of these models are one matrix; peft makes two of them.
        kept = {name: parameter for name, parameter in model.named_parameters() if "modules_to_save" in name}
        first, *others = kept.values()
        for other in others:
            other.copy_(first)
    model.save_pretrained(folder)
with torch.no_grad():
    logits = model(torch.tensor([[int(part) for part in ids.split(",")]])).logits
print(json.dumps({"logits": logits[0].flatten().tolist()}))
