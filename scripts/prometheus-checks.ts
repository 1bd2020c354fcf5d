// Are the rules, alerts and the dashboard right, and do they name what a running router tells? Asks promtool and a live run.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parse, stringify } from 'yaml';
import { runFairlead } from '../lab/child-process.ts';
import { freePorts, renderEnvoyConfig, startEnvoy } from '../lab/envoy-process.ts';
import { startFairlead } from '../lab/fairlead-process.ts';
import { type Check, expectSuccess, Failure, root, run, Skip } from './deploy-check.ts';
import { listMetrics } from './metrics-docs.ts';

const alertsFile = 'deploy/prometheus/alerts.yaml';
const alertTestsFile = 'deploy/prometheus/alerts.test.yaml';
const dashboardFile = 'deploy/grafana/dashboard.json';
/** Labels that Prometheus adds, or that a histogram's buckets have. */
const labelsOfAll = ['instance', 'job', 'le'];
/** What every scrape adds to any target's metrics. */
const ofPrometheus = new Set(['up']);

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const rules = (): Rule[] => (parse(read(alertsFile)) as { groups: { rules: Rule[] }[] }).groups.flatMap((group) => group.rules);

/** An expression, and where it stands. */
export interface Expression {
  readonly where: string;
  readonly text: string;
}

/** Every expression in the dashboard, with Grafana's variables in it. */
export function dashboardExpressions(): Expression[] {
  const { panels } = JSON.parse(read(dashboardFile)) as { panels: { title: string; targets?: { expr: string }[] }[] };
  return panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ where: `${dashboardFile}: ${title}`, text: expr })));
}

/** Every expression in the rules and the dashboard. */
function expressions(): Expression[] {
  return [...rules().map(({ record, alert, expr }) => ({ where: `${alertsFile}: ${record ?? alert ?? '?'}`, text: expr })), ...dashboardExpressions()];
}

/** An expression as Grafana sends it: variables stand for what they may be. One that nothing is known of stays, and is no PromQL. */
export function fillVariables(expression: string): string {
  const values: Readonly<Record<string, string>> = { __rate_interval: '5m', __interval: '1m', __range: '1h', pool: 'chat|.*' };
  return expression.replaceAll(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced?: string, bare?: string) => values[braced ?? bare ?? ''] ?? whole);
}

/** Has promtool parse the dashboard's expressions: all of them as rules of one file, each under a name that leads back to it. */
export async function checkDashboard(dashboard: readonly Expression[] = dashboardExpressions()): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'fairlead-dashboard-'));
  try {
    const file = path.join(folder, 'dashboard.rules.yaml');
    const unknown = dashboard.filter(({ text }) => fillVariables(text).includes('$'));
    if (unknown.length > 0) throw new Failure(unknown.map(({ where, text }) => `${where} has a variable that nothing is known of: ${text}`).join('\n'));
    const asRules = dashboard.map(({ where, text }, i) => ({ record: `dashboard:panel_${i}`, labels: { where }, expr: fillVariables(text) }));
    await writeFile(file, stringify({ groups: [{ name: 'dashboard', rules: asRules }] }));
    await promtool(['check', 'rules', file]);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Metrics that an expression names, with the labels that it selects by. Enough of PromQL's grammar for the files here. */
function selectorsIn(expression: string): { readonly metric: string; readonly labels: readonly string[] }[] {
  const bare = expression.replaceAll(/\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, ' ');
  return [...bare.matchAll(/([a-zA-Z_][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?(?!\s*\(|[\w:])/g)].flatMap(([, metric = '', selector = '']) =>
    /^(fairlead|nodejs|process)_/.test(metric) || metric.includes(':') || ofPrometheus.has(metric)
      ? [{ metric, labels: [...selector.matchAll(/([a-zA-Z_]\w*)\s*(=~|!~|!=|=)/g)].map(([, label = '']) => label) }]
      : [],
  );
}

/** Has promtool pass judgement; fails with what it says. */
async function promtool(args: readonly string[], input?: string): Promise<void> {
  const binary = process.env['PROMTOOL_BIN'] ?? 'promtool';
  const running = run(binary, args, input === undefined ? {} : { input }).catch((error: unknown) => {
    if (error instanceof Failure) throw error;
    throw new Skip(`${binary} cannot be run (${(error as Error).message}): install Debian's package prometheus, or set PROMTOOL_BIN`);
  });
  await expectSuccess(`${binary} ${args[0] ?? ''}`, running);
}

let scraped: Promise<string> | undefined;

/** What a router tells that has just routed requests through a real Envoy to a model server. */
function scrape(): Promise<string> {
  return (scraped ??= (async () => {
    const parts: { stop(): Promise<unknown> }[] = [];
    try {
      const [port = 0] = await freePorts(1);
      const address = `127.0.0.1:${port}`;
      const server = runFairlead(['sim-server', '--ports', String(port)]);
      parts.push(server);
      await server.waitForLine((line) => (line.includes(`:${port}`) ? true : undefined));
      const fairlead = await startFairlead({ pools: [{ name: 'chat', health: { probe: { path: '/health' } }, endpoints: [{ address }] }] });
      parts.push(fairlead);
      const envoy = await startEnvoy({ config: renderEnvoyConfig({ clusters: { chat: [address] }, fairlead: [fairlead.address] }) });
      parts.push(envoy);
      const answer = await fetch(`${envoy.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-session-id': 'check' },
        body: JSON.stringify({ model: 'm', stream: true, max_tokens: 4, messages: [{ role: 'user', content: 'hello' }] }),
        signal: AbortSignal.timeout(60_000),
      });
      await answer.text();
      if (answer.status !== 200) throw new Failure(`the request through Envoy was answered ${answer.status}\n${fairlead.log()}`);
      // The report of its end comes with Envoy's next flush of the access log.
      for (let tries = 0; (await fairlead.metric('fairlead_requests_released_total')) === 0; tries += 1) {
        if (tries === 100) throw new Failure('the end of the request was never reported');
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return (await fairlead.get('/metrics')).text;
    } finally {
      for (const part of parts.reverse()) await part.stop();
    }
  })());
}

/** By what they check. */
export const prometheusChecks: Readonly<Record<string, Check>> = {
  [`${alertsFile}: promtool takes it`]: async () => {
    await promtool(['check', 'rules', '--lint-fatal', alertsFile]);
  },
  [`${dashboardFile}: promtool takes its expressions`]: async () => {
    await checkDashboard();
  },
  [`${alertTestsFile}: promtool test rules`]: async () => {
    await promtool(['test', 'rules', alertTestsFile]);
  },
  [`${alertsFile}: every alert is tested, has a severity, a summary and a runbook`]: () => {
    const problems: string[] = [];
    const tests = read(alertTestsFile);
    for (const { alert, labels, annotations } of rules()) {
      if (alert === undefined) continue;
      if (!tests.includes(`alertname="${alert}"`)) problems.push(`${alert} never fires in ${alertTestsFile}`);
      if (!['critical', 'warning', 'info'].includes(labels?.['severity'] ?? '')) problems.push(`${alert} has no severity: critical, warning or info`);
      for (const wanted of ['summary', 'runbook']) if ((annotations?.[wanted] ?? '').length < 20) problems.push(`${alert} has no ${wanted}`);
    }
    if (problems.length > 0) throw new Failure(problems.join('\n'));
  },
  'deploy/compose/prometheus.yaml: promtool takes it': async () => {
    await promtool(['check', 'config', '--syntax-only', 'deploy/compose/prometheus.yaml']);
  },
  'a live router: promtool finds nothing wrong with its metrics': async () => {
    await promtool(['check', 'metrics'], await scrape());
  },
  'a live router: has every metric and label that rules and dashboard name': async () => {
    const text = await scrape();
    const types = new Map([...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type]));
    const labels = new Map((await listMetrics()).map((metric) => [metric.name, metric.labels]));
    const recorded = new Set(rules().flatMap(({ record }) => record ?? []));
    const problems: string[] = [];
    const named = new Set<string>();
    for (const { where, text: expression } of expressions()) {
      const selectors = selectorsIn(expression);
      if (selectors.length === 0) problems.push(`${where} names no metric`);
      for (const { metric, labels: selected } of selectors) {
        const base = types.get(metric.replace(/_bucket$/, '')) === 'histogram' ? metric.replace(/_bucket$/, '') : metric;
        named.add(base);
        if (!types.has(base) && !recorded.has(metric) && !ofPrometheus.has(metric)) problems.push(`${where} names ${metric}, which the router does not have`);
        const known = labels.get(base) ?? selected;
        for (const label of selected) {
          if (!known.includes(label) && !labelsOfAll.includes(label)) problems.push(`${where} selects ${metric} by ${label}, which it does not have`);
        }
      }
    }
    if (named.size < 20) problems.push(`only ${named.size} metrics are named at all: the search for them is broken`);
    // Only one with several workers has metrics of them; test/integration/workers.test.ts scrapes such a one.
    for (const name of labels.keys()) if (!types.has(name) && !name.startsWith('fairlead_worker')) problems.push(`docs/metrics.md has ${name}, which the router does not have`);
    for (const name of types.keys()) if (name.startsWith('fairlead_') && !labels.has(name)) problems.push(`the router has ${name}, which docs/metrics.md does not`);
    if (problems.length > 0) throw new Failure(problems.join('\n'));
  },
  'a live router: counted the request that went through it': async () => {
    const text = await scrape();
    for (const wanted of [
      /^fairlead_decisions_total\{pool="chat",endpoint="[^"]+",reason="[^"]+"\} 1$/m,
      /^fairlead_requests_released_total\{pool="chat",endpoint="[^"]+",ending="finished",signal="access-log"\} 1$/m,
      /^fairlead_pool_endpoints\{pool="chat",state="(ready|warming)"\} 1$/m,
      /^fairlead_probes_total\{pool="chat",outcome="passed"\} [1-9]/m,
      /^fairlead_pool_desired_replicas\{pool="chat"\} [1-9]/m,
    ]) {
      if (!wanted.test(text)) throw new Failure(`no line of the scrape is like ${wanted.source}`);
    }
  },
};
