// The server's page /docs in a browser. It is here because the browser is.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { findChromium, launch } from '../bed/chromium.mjs';
import { freePort, start } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { serverBinary } from '../bed/server.mjs';

const executable = findChromium();
if (!executable) {
  notRun('the page /docs in a browser', 'Chromium is not installed');
} else {
  describe('the page /docs in Chromium', () => {
    let origin, server, browser;

    before(async () => {
      const port = await freePort();
      origin = `http://127.0.0.1:${port}`;
      const options = ['--host', '127.0.0.1', '--port', String(port), '--store', 'memory:', '--random-state', '42'];
      server = await start(serverBinary(), options, { ready: /listening on/ });
      browser = await launch(executable);
    });
    after(async () => {
      await browser?.close();
      await server?.stop();
    });

    /** Opens the page, and collects what it asks for and complains about. */
    async function open(options, address = `${origin}/docs`) {
      const context = await browser.newContext(options);
      const page = await context.newPage();
      const seen = { requests: [], complaints: [] };
      page.on('request', (request) => seen.requests.push(request.url()));
      page.on('console', (message) => seen.complaints.push(message.text()));
      page.on('pageerror', (error) => seen.complaints.push(error.message));
      await page.goto(address);
      return { page, seen };
    }

    // A plant's network may have no way out, and a page that breaks its own policy shows that on the console only.
    test('it loads nothing else and has nothing to complain of', async () => {
      const { page, seen } = await open({});
      await page.waitForLoadState('networkidle');
      assert.deepEqual(seen, { requests: [`${origin}/docs`], complaints: [] });
      const style = await page.evaluate(() => window.getComputedStyle(document.body).maxWidth);
      assert.notEqual(style, 'none', 'the policy lets the styles through');
      await page.context().close();
    });

    test('a copied line runs and gets the answer that the page shows', async () => {
      const { page } = await open({ permissions: ['clipboard-read'] });
      const operation = page.locator('#predict');
      await operation.locator('summary').focus();
      await page.keyboard.press('Enter');
      await operation.getByRole('button', { name: 'Copy' }).first().click();
      assert.equal(await operation.getByRole('button').first().innerText(), 'Copied');
      const line = await page.evaluate(() => navigator.clipboard.readText());
      assert.ok(line.includes(` ${origin}/predict `), line);
      const { stdout } = await promisify(execFile)('sh', ['-c', line]);
      const shown = await operation.locator('pre:not(.curl)').first().innerText();
      assert.deepEqual(JSON.parse(stdout), JSON.parse(shown));
      await page.context().close();
    });

    test('it reads the same without JavaScript', async () => {
      const { page } = await open({ javaScriptEnabled: false });
      assert.equal(await page.getByRole('button').count(), 0);
      const operation = page.locator('#retrain');
      const line = operation.locator('.curl').first();
      assert.equal(await line.isVisible(), false);
      await operation.locator('summary').click();
      assert.equal(await line.isVisible(), true);
      assert.match(await line.innerText(), /^curl -X POST http:\/\/localhost:5000\/retrain /);
      await page.context().close();
    });

    test('a link to an operation opens it', async () => {
      const { page } = await open({}, `${origin}/docs#describeModel`);
      assert.equal(await page.locator('#describeModel .curl').isVisible(), true);
      await page.context().close();
    });

    for (const colorScheme of ['light', 'dark']) {
      test(`it fits a narrow phone, and all text is readable, in the ${colorScheme} scheme`, async () => {
        const { page } = await open({ colorScheme, viewport: { width: 320, height: 640 } });
        await page.evaluate(() => document.querySelectorAll('details').forEach((details) => { details.open = true; }));
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 320);
        // The contrast of WCAG 2, which asks for 4.5.
        const worst = await page.evaluate(() => {
          const rgb = (color) => color.match(/[\d.]+/g).map(Number);
          const luminance = (color) => {
            const [r, g, b] = rgb(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const back = (element) => {
            const color = window.getComputedStyle(element).backgroundColor;
            return rgb(color)[3] === 0 ? back(element.parentElement) : color;
          };
          const contrasts = [...document.body.querySelectorAll('*:not(script)')].map((element) => {
            const [a, b] = [window.getComputedStyle(element).color, back(element)].map(luminance);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          });
          return Math.min(...contrasts);
        });
        assert.ok(worst >= 4.5, `${worst}`);
        await page.context().close();
      });
    }
  });
}
