//! The components that come with difflow. They are written with the SDK like any plug-in, and the host calls them
//! through the same tables; only the exported symbol is missing, because they are compiled into the programs.
//!
//! `builtin:NAME` in a dataflow file means the component `difflow.noise.NAME`, `difflow.annealing.NAME` or
//! `difflow.transform.NAME`, depending on what the key accepts.

mod annealing;
mod documents;
mod noise;
mod patterns;
mod span_mask;

use difflow_plugin_sdk::entry;

use annealing::{Cosine, Exponential, Full, Linear, Step};
use documents::Documents;
use noise::{Clipped, CosineNoise, Geometric, LinearNoise, LogLinear, Polynomial};
use patterns::{Band, Blocks};
use span_mask::SpanMask;

entry! {
    /// The table of the built-in components.
    pub static ENTRY;

    noise_schedule LinearNoise {
        id: "difflow.noise.linear", name: "Linear", vendor: "difflow", license: "Apache-2.0",
        description: "α = 1 − t, w = 1/t: the paper's schedule"
    }
    noise_schedule CosineNoise {
        id: "difflow.noise.cosine", name: "Cosine", vendor: "difflow", license: "Apache-2.0",
        description: "α = cos²(πt/2): slow at both ends"
    }
    noise_schedule Geometric {
        id: "difflow.noise.geometric", name: "Geometric", vendor: "difflow", license: "Apache-2.0",
        description: "α = exp(σ(0) − σ(t)) with σ(t) = sigma_min^(1−t) · sigma_max^t"
    }
    noise_schedule LogLinear {
        id: "difflow.noise.log-linear", name: "Log-linear", vendor: "difflow", license: "Apache-2.0",
        description: "α = 1 − (1 − epsilon) t: linear, but a share epsilon is never masked"
    }
    noise_schedule Polynomial {
        id: "difflow.noise.polynomial", name: "Polynomial", vendor: "difflow", license: "Apache-2.0",
        description: "α = 1 − t^power, w = power/t"
    }
    noise_schedule Clipped {
        id: "difflow.noise.clipped", name: "Clipped", vendor: "difflow", license: "Apache-2.0",
        description: "Linear with t clipped to a range: the masked share goes from low to high, so no row is almost clean or almost empty"
    }

    annealing_schedule Linear {
        id: "difflow.annealing.linear", name: "Linear", vendor: "difflow", license: "Apache-2.0",
        description: "min(1, (step + 1) / anneal_steps): the paper's code"
    }
    annealing_schedule Cosine {
        id: "difflow.annealing.cosine", name: "Cosine", vendor: "difflow", license: "Apache-2.0",
        description: "Half a cosine from 0 to 1: slow at both ends"
    }
    annealing_schedule Step {
        id: "difflow.annealing.step", name: "Step", vendor: "difflow", license: "Apache-2.0",
        description: "Stays causal, then opens in equal jumps"
    }
    annealing_schedule Exponential {
        id: "difflow.annealing.exponential", name: "Exponential", vendor: "difflow", license: "Apache-2.0",
        description: "Opens fast at first and ever more slowly: 1 − exp(−rate · progress), scaled to end at 1"
    }
    annealing_schedule Full {
        id: "difflow.annealing.none", name: "None", vendor: "difflow", license: "Apache-2.0",
        description: "Full attention from the first step: the paper's 7B model, and finetuning"
    }
    annealing_schedule Band {
        id: "difflow.annealing.band", name: "Band", vendor: "difflow", license: "Apache-2.0",
        description: "Each position sees a window to its right that grows until it reaches the end"
    }
    annealing_schedule Blocks {
        id: "difflow.annealing.blocks", name: "Growing blocks", vendor: "difflow", license: "Apache-2.0",
        description: "Positions see to the end of their block; blocks grow 1, first, first·growth, … up to the whole sequence"
    }

    batch_transform SpanMask {
        id: "difflow.transform.span-mask", name: "Span masking", vendor: "difflow", license: "Apache-2.0",
        description: "On noised batches: masks as many tokens of each row as before, but in runs"
    }
    batch_transform Documents {
        id: "difflow.transform.documents", name: "Document filter", vendor: "difflow", license: "Apache-2.0",
        description: "On documents: drops or repeats those that a predicate chooses"
    }
}
