export default function limitsForTheGauge({ msg, context }) {
  // The scale and its colours follow the model and are sent only when they change.
  const model = msg.payload.model;
  const ranges = model ? model.normal_ranges : [];
  const bounds = ranges.flat().filter((bound) => bound !== null);
  const RED = '#d64545';
  const GREEN = '#2e9e6b';
  const GREY = '#98a5b3';

  // Without limits nothing is green or red, and the scale is a power of ten that covers all readings so far.
  function withoutLimits() {
    const value = Number.isFinite(msg.payload.value) ? msg.payload.value : 0;
    const widest = Math.max(Math.abs(value), context.get('widest') || 1);
    context.set('widest', widest);
    context.set('negative', value < 0 || context.get('negative') === true);
    const max = Math.pow(10, Math.max(1, Math.ceil(Math.log10(widest))));
    const min = context.get('negative') ? -max : 0;
    return {
      min: min,
      max: max,
      segments: [{ from: min, color: GREY }],
      title: !model ? 'no model yet' : model.features > 1 ? 'not for several features' : 'the model has no limits',
    };
  }

  function withLimits() {
    context.set('widest', 0);
    context.set('negative', false);
    const low = Math.min(...bounds);
    const high = Math.max(...bounds);
    const span = high - low || Math.abs(high) || 1;
    const step = Math.pow(10, Math.floor(Math.log10(span)));
    const min = low >= 0 ? 0 : Math.floor((low - span / 4) / step) * step;
    const max = Math.ceil((high + span) / step) * step;
    const segments = [{ from: min, color: RED }];
    for (const [from, to] of ranges) {
      segments.push({ from: from === null ? min : Math.max(min, from), color: GREEN });
      if (to !== null) segments.push({ from: to, color: RED });
    }
    return { min: min, max: max, segments: segments, title: 'green is normal for the model' };
  }

  const update = bounds.length > 0 ? withLimits() : withoutLimits();
  update.units = msg.payload.unit;
  const key = JSON.stringify(update);
  if (context.get('sent') === key) return null;
  context.set('sent', key);
  return { ui_update: update };
}
