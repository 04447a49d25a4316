//! The boxes of nodes: the least and the greatest value of each feature among the training rows that
//! reached a node.

use super::trees::{Tree, Trees};

/// The boxes of all nodes of more than one row, tree by tree in depth-first order. A box is the least
/// value of each feature, followed by the greatest of each.
///
/// Training values are compared as `f32`, so boxes of `f32` are exact.
pub(in crate::forest) type Boxes = Vec<f32>;

/// Appends the boxes of one tree, which was grown from `rows`; `value` returns the value of a row
/// and a feature.
pub(super) fn push_boxes(
    tree: &Tree<'_>,
    rows: &[u32],
    n_features: usize,
    value: impl Fn(u32, u32) -> f32,
    boxes: &mut Boxes,
) {
    let width = 2 * n_features;
    let mut bounds = vec![f32::INFINITY; width * tree.node_count()];
    for bounds in bounds.chunks_exact_mut(width) {
        bounds[n_features..].fill(f32::NEG_INFINITY);
    }
    for &row in rows {
        let leaf = leaf_of(tree, |feature| value(row, feature as u32));
        let (least, greatest) = bounds[leaf * width..][..width].split_at_mut(n_features);
        for feature in 0..n_features {
            let value = value(row, feature as u32);
            least[feature] = least[feature].min(value);
            greatest[feature] = greatest[feature].max(value);
        }
    }
    // Children follow their parents.
    for node in (0..tree.node_count()).rev() {
        if let Some((left, right)) = tree.children(node) {
            let (head, children) = bounds.split_at_mut((node + 1) * width);
            let parent = &mut head[node * width..];
            for child in [left, right] {
                let child = &children[(child - node - 1) * width..][..width];
                for feature in 0..n_features {
                    parent[feature] = parent[feature].min(child[feature]);
                    let greatest = n_features + feature;
                    parent[greatest] = parent[greatest].max(child[greatest]);
                }
            }
        }
    }
    for (bounds, &rows) in bounds.chunks_exact(width).zip(tree.n_node_samples()) {
        if rows > 1 {
            boxes.extend_from_slice(bounds);
        }
    }
}

/// The leaf that a row reaches.
fn leaf_of(tree: &Tree<'_>, value: impl Fn(usize) -> f32) -> usize {
    let mut node = 0;
    while let (Some((feature, threshold)), Some((left, right))) =
        (tree.split(node), tree.children(node))
    {
        let goes_left = f64::from(value(feature)) <= threshold;
        node = if goes_left { left } else { right };
    }
    node
}

/// Whether these could be the boxes of the trees: there is one for each node of more than one row,
/// and each end is finite and in order.
pub(in crate::forest) fn are_sound(boxes: &[f32], trees: &Trees, n_features: usize) -> bool {
    let nodes: usize = trees
        .iter()
        .map(|tree| {
            tree.n_node_samples()
                .iter()
                .filter(|&&rows| rows > 1)
                .count()
        })
        .sum();
    boxes.len() == nodes * 2 * n_features
        && boxes.chunks_exact(2 * n_features).all(|bounds| {
            let (least, greatest) = bounds.split_at(n_features);
            least.iter().zip(greatest).all(|(least, greatest)| {
                least.is_finite() && greatest.is_finite() && least <= greatest
            })
        })
}
