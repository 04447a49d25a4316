// Node-RED's editor in a browser, to import and deploy flows as users do.
import { readFileSync } from 'node:fs';
import { sleep, until } from './process.mjs';

export async function openEditor(browser, nodeRed) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await page.goto(nodeRed.url);
  await page.waitForSelector('#red-ui-workspace-tabs li', { timeout: 20_000 });
  const tabs = () => page.evaluate(() => window.RED.nodes.getWorkspaceOrder().length);
  return {
    page,
    /** Imports a flow file; with `again` the flow exists already and the editor imports a copy. */
    async importFlow(name, { again = false } = {}) {
      const before = await tabs();
      await page.locator('#red-ui-workspace-chart').click({ position: { x: 300, y: 300 } });
      await page.keyboard.press('Control+i');
      const text = readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
      const ok = page.locator('#red-ui-clipboard-dialog-ok');
      const input = page.locator('#red-ui-clipboard-dialog-import-text');
      await input.waitFor();
      // The dialog clears its text while it opens, and checks the text after a key only.
      await until(async () => {
        await input.fill(text);
        await input.press('End');
        await sleep(300);
        return ok.isEnabled();
      }, 'the dialog to accept the flow');
      await ok.click();
      if (again) await page.getByRole('button', { name: 'Import copy' }).click();
      await page.waitForSelector('#red-ui-clipboard-dialog', { state: 'hidden' });
      await until(async () => (await tabs()) > before, `the tab of ${name}`);
    },
    async deploy(check) {
      await page.locator('#red-ui-header-button-deploy').click();
      return until(async () => {
        const flows = await (await fetch(`${nodeRed.url}/flows`)).json();
        return check(flows) && flows;
      }, 'the deployment');
    },
  };
}
