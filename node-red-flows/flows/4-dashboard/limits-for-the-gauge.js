import { scale } from '../../lib/gauge.js';

// The scale and its colours follow the model and the value, and are sent only when they change.
export default function limitsForTheGauge({ msg, context }) {
  const { model, value, unit } = msg.payload;
  const ranges = model ? model.normal_ranges : [];
  let title = 'green is normal for the model';
  if (!model) title = 'no model yet';
  else if (model.features > 1) title = 'not for several features';
  else if (ranges.flat().every((bound) => bound === null)) title = 'the model has no limits';
  const update = { ...scale(ranges, value), title, units: unit };
  const key = JSON.stringify(update);
  if (context.get('sent') === key) return null;
  context.set('sent', key);
  return { ui_update: update };
}
