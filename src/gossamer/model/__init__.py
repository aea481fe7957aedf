"""The model layer: subject, sites, graph, cost, plans, edits, live constraints, freeze and load."""

from gossamer.model.activations import put_activation
from gossamer.model.apply import apply, retarget, settle
from gossamer.model.blocks import Block, find_blocks, why_no_drop
from gossamer.model.buckets import bucket_count, scaled
from gossamer.model.codebook import Codebook, codes_dtype
from gossamer.model.constraint import Constraint, Constraints, Grid, Hash, Mask, Splice, signed_bits
from gossamer.model.cost import Cost, SiteCost, convolution_table, cost_of, plan_cost
from gossamer.model.coupling import Group, Slice
from gossamer.model.edits import Cut, Drop, Edit, Fold, Resize, Split, Unclip, edit_from_dict, edit_to_dict
from gossamer.model.evidence import Activity, Evidence, Example, Mean, Moment
from gossamer.model.folding import foldable
from gossamer.model.freeze import Frozen, freeze, to_artifact
from gossamer.model.graph import Graph, Node, Unseen
from gossamer.model.input_grid import why_no_input_grid
from gossamer.model.latent import Binary, Bucketed, Points, Tanh, Ternary
from gossamer.model.layout import Layout, Reading
from gossamer.model.load import Loaded, load
from gossamer.model.method import Method, Revise, always_moved, choose
from gossamer.model.mixture import Components, Mixture, Rates, own_rates
from gossamer.model.nearest import nearest_center
from gossamer.model.parts import all_finite, in_parts
from gossamer.model.penalty import Penalty, Ramped, StepContext
from gossamer.model.plan import Plan, Skip
from gossamer.model.site import Owner, Site, find_sites
from gossamer.model.state_grid import why_no_state_grid
from gossamer.model.subject import Subject, hidden_weight, kept_values, live_weight, plain_copy, trainable, trains

__all__ = [
    "Activity",
    "Binary",
    "Block",
    "Bucketed",
    "Codebook",
    "Components",
    "Constraint",
    "Constraints",
    "Cost",
    "Cut",
    "Drop",
    "Edit",
    "Evidence",
    "Example",
    "Fold",
    "Frozen",
    "Graph",
    "Grid",
    "Group",
    "Hash",
    "Layout",
    "Loaded",
    "Mask",
    "Mean",
    "Method",
    "Mixture",
    "Moment",
    "Node",
    "Owner",
    "Penalty",
    "Plan",
    "Points",
    "Ramped",
    "Rates",
    "Reading",
    "Resize",
    "Revise",
    "Site",
    "SiteCost",
    "Skip",
    "Slice",
    "Splice",
    "Split",
    "StepContext",
    "Subject",
    "Tanh",
    "Ternary",
    "Unclip",
    "Unseen",
    "all_finite",
    "always_moved",
    "apply",
    "bucket_count",
    "choose",
    "codes_dtype",
    "convolution_table",
    "cost_of",
    "edit_from_dict",
    "edit_to_dict",
    "find_blocks",
    "find_sites",
    "foldable",
    "freeze",
    "hidden_weight",
    "in_parts",
    "kept_values",
    "live_weight",
    "load",
    "nearest_center",
    "own_rates",
    "plain_copy",
    "plan_cost",
    "put_activation",
    "retarget",
    "scaled",
    "settle",
    "signed_bits",
    "to_artifact",
    "trainable",
    "trains",
    "why_no_drop",
    "why_no_input_grid",
    "why_no_state_grid",
]
