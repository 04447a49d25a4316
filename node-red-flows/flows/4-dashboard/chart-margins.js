export default function chartMargins() {
  // Without a bottom margin the chart cuts off its time axis.
  return { ui_update: { chartOptions: { animation: false, grid: { left: 10, right: 30, top: 40, bottom: 12, containLabel: true } } } };
}
