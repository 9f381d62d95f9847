
'use strict';
(() => {
  // Whatever the daemon says may have words of clients, name servers and files in it. It becomes text, never markup.
  const FIGURES = 'page.json';
  const INTERVAL_MS = 2000;
  const TIMEOUT_MS = 10000;
  const WINDOW_S = 60;
  const TEXT_CHARS_MAX = 600;
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const SVG = 'http://www.w3.org/2000/svg';
  const STATES = {
    idle: 'kept without a request',
    reading: 'its head is coming',
    queued: 'waits for a place',
    connecting: 'is being connected',
    sent: 'the server has not answered',
    answering: 'is being answered',
    delivering: 'the client takes the rest',
    ending: 'is about to end',
    relaying: 'raw bytes go both ways',
    settling: 'answered, the server is at work behind it',
    abandoned: 'its client has left, the server is at work',
  };
  const RANKS = { error: 2, warn: 1, note: 0 };

  const byId = id => document.getElementById(id);

  // --- words ------------------------------------------------------------------------------------

  function shown(value) {
    const text = String(value);
    const cut = text.length > TEXT_CHARS_MAX ? text.slice(0, TEXT_CHARS_MAX) + '...' : text;
    return cut.replace(UNSEEN, c => '\\u{' + c.codePointAt(0).toString(16) + '}');
  }

  function short(number) {
    const digits = number < 10 ? 2 : number < 100 ? 1 : 0;
    const text = number.toFixed(digits);
    return digits > 0 ? text.replace(/\.?0+$/, '') : text;
  }

  // Of names that are known; others stand for themselves.
  const named = (names, key) => (Object.hasOwn(names, key) ? names[key] : key);

  function span(seconds) {
    if (typeof seconds !== 'number') return '-';
    if (seconds < 0.001) return short(seconds * 1e6) + 'us';
    if (seconds < 1) return short(seconds * 1e3) + 'ms';
    if (seconds < 60) return short(seconds) + 's';
    const whole = Math.floor(seconds);
    const [minutes, hours, days] = [60, 3600, 86400].map(unit => Math.floor(whole / unit));
    if (days > 0) return days + 'd' + (hours % 24) + 'h';
    if (hours > 0) return hours + 'h' + (minutes % 60) + 'm';
    return minutes + 'm' + (whole % 60) + 's';
  }

  function size(bytes) {
    let rest = bytes;
    for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
      if (rest < 1024) return short(rest) + ' ' + unit;
      rest /= 1024;
    }
    return short(rest) + ' TiB';
  }

  const rate = number => (number === null ? '-' : short(number) + '/s');
  const plural = (count, one, more) => count + ' ' + (count === 1 ? one : more);
  const clock = seconds => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

  // --- elements, which stay where they are and change in place ----------------------------------

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  function say(node, value) {
    const text = shown(value);
    if (node.textContent !== text) node.textContent = text;
  }

  function dress(node, className) {
    if (node.className !== className) node.className = className;
  }

  function show(node, is) {
    if (node.hidden === is) node.hidden = !is;
  }

  // Gives `parent` one child for each item. Those that were there for an item of the same key stay.
  function keep(parent, items, key, make, update) {
    const before = parent.kept || new Map();
    const after = new Map();
    for (const [number, item] of items.entries()) {
      let name = String(key(item, number));
      while (after.has(name)) name += ' again';
      after.set(name, before.get(name) || make(item));
    }
    for (const [name, child] of before) if (!after.has(name)) child.remove();
    [...after.values()].forEach((child, number) => {
      update(child, items[number]);
      if (parent.children[number] !== child) parent.insertBefore(child, parent.children[number] || null);
    });
    parent.kept = after;
  }

  function table(titles, className) {
    const head = element('tr');
    for (const [title, className] of titles) {
      const cell = element('th', className, title);
      cell.scope = 'col';
      head.append(cell);
    }
    return element('table', className, element('thead', '', head), element('tbody'));
  }

  // Cells are texts, each with the title of its column.
  function fill(row, titles, texts) {
    keep(row, texts, (_, number) => number, () => element('td'), () => {});
    texts.forEach((text, number) => {
      const cell = row.children[number];
      dress(cell, titles[number][1] || '');
      if (cell.dataset.label !== titles[number][0]) cell.dataset.label = titles[number][0];
      say(cell, text);
    });
  }

  function facts(list, pairs) {
    const make = () => element('div', '', element('dt'), element('dd'));
    keep(list, pairs, pair => pair[0], make, (made, [name, value, className]) => {
      say(made.firstChild, name);
      say(made.lastChild, value);
      dress(made.lastChild, className || '');
    });
  }

  // --- what follows from two looks --------------------------------------------------------------

  const sum = counts => Object.values(counts || {}).reduce((all, count) => all + count, 0);
  const routeOf = (figures, name) => (figures ? figures.routes.find(route => route.name === name) : undefined);

  // Those of one daemon, the oldest first, none older than the window.
  let looks = [];

  function note(figures) {
    const isOlder = look => look.started_at_seconds === figures.started_at_seconds && look.uptime_seconds < figures.uptime_seconds;
    looks = looks.filter(isOlder);
    looks.push(figures);
    while (looks.length > 2 && looks[0].uptime_seconds < figures.uptime_seconds - WINDOW_S) looks.shift();
  }

  // How fast something grows, a second; null before two looks.
  function growth(name, pick) {
    if (looks.length < 2) return null;
    const [before, now] = looks.slice(-2);
    const time = now.uptime_seconds - before.uptime_seconds;
    const ends = name === null ? [before, now] : [routeOf(before, name), routeOf(now, name)];
    if (!ends[0] || !ends[1] || time <= 0) return null;
    return Math.max(0, pick(ends[1]) - pick(ends[0])) / time;
  }

  const pauses = figures => sum(figures.accept_pauses);
  // A reload may have made a raw route of it, or the other way round.
  const requestsOf = route => (route.fastcgi || {}).requests || {};
  const answersOf = route => (route.fastcgi || {}).answers_of_our_own || {};

  // What no single look can tell.
  function trends() {
    const found = [];
    const paused = growth(null, pauses);
    if (paused > 0) {
      const [before, now] = looks.slice(-2).map(figures => figures.accept_pauses);
      const reasons = Object.keys(now).filter(reason => now[reason] > before[reason]);
      const words = reasons.map(reason => reason.replace('_', ' ')).join(', ');
      found.push({ level: 'error', text: 'clients are not accepted now and then: ' + rate(paused) + ' pauses (' + words + ')' });
    }
    for (const route of looks[looks.length - 1].routes) {
      for (const status of ['502', '503', '504']) {
        const answered = growth(route.name, it => answersOf(it)[status] || 0);
        if (answered > 0) {
          const text = 'route ' + route.name + ': ' + rate(answered) + ' requests are answered with ' + status + ', not by a backend';
          found.push({ level: 'error', text });
        }
      }
    }
    return found;
  }

  // --- histograms -------------------------------------------------------------------------------

  // The bound below which this part of the times are.
  function quantile(buckets, part) {
    const wanted = buckets.reduce((all, bucket) => all + bucket.count, 0) * part;
    let seen = 0;
    for (const bucket of buckets) {
      seen += bucket.count;
      if (seen >= wanted) {
        const last = buckets[buckets.length - 2];
        return bucket.up_to_seconds === null ? 'over ' + span(last.up_to_seconds) : 'within ' + span(bucket.up_to_seconds);
      }
    }
    return '-';
  }

  function since(before, now) {
    if (!before || before.buckets.length !== now.buckets.length) return null;
    return now.buckets.map((bucket, number) => ({
      up_to_seconds: bucket.up_to_seconds,
      count: Math.max(0, bucket.count - before.buckets[number].count),
    }));
  }

  const WIDTH = 240;
  const HEIGHT = 46;

  function makePlot(title) {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', '0 0 ' + WIDTH + ' ' + HEIGHT);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    for (const className of ['all', 'now']) {
      const group = document.createElementNS(SVG, 'g');
      group.setAttribute('class', className);
      svg.append(group);
    }
    const axis = element('p', 'axis', element('span'), element('span'), element('span'));
    const figure = element('figure', '', element('figcaption', '', element('b'), element('span')), svg, axis);
    say(figure.firstChild.firstChild, title);
    return figure;
  }

  function bars(group, buckets, width, inset) {
    const most = Math.max(1, ...buckets.map(bucket => bucket.count));
    while (group.children.length < buckets.length) group.append(document.createElementNS(SVG, 'rect'));
    buckets.forEach((bucket, number) => {
      const bar = group.children[number];
      const height = bucket.count === 0 ? 0 : Math.max(2, (bucket.count / most) * HEIGHT);
      const sides = { x: number * width + inset, y: HEIGHT - height, width: width - 2 * inset, height };
      for (const [side, value] of Object.entries(sides)) {
        if (bar.getAttribute(side) !== String(value)) bar.setAttribute(side, value);
      }
    });
  }

  function drawPlot(figure, { title, now, before, time }) {
    const [caption, svg, axis] = figure.children;
    const [all, latest] = svg.children;
    const width = WIDTH / now.buckets.length;
    const lately = since(before, now);
    const count = lately ? lately.reduce((whole, bucket) => whole + bucket.count, 0) : 0;
    bars(all, now.buckets, width, 0.5);
    bars(latest, lately || now.buckets.map(bucket => ({ ...bucket, count: 0 })), width, width / 4);
    const middle = Math.floor(now.buckets.length / 2);
    const bounds = [now.buckets[0], now.buckets[middle]].map(bucket => span(bucket.up_to_seconds));
    [...bounds, 'longer'].forEach((bound, number) => say(axis.children[number], bound));
    const whole = now.count + ', half ' + quantile(now.buckets, 0.5) + ', 99 % ' + quantile(now.buckets, 0.99);
    const late = count === 0 ? '' : '; in the last ' + span(time) + ': ' + count + ', half ' + quantile(lately, 0.5) + ', 99 % ' + quantile(lately, 0.99);
    say(caption.lastChild, ' ' + whole + late);
    const label = title + ': ' + whole + late;
    if (svg.getAttribute('aria-label') !== label) svg.setAttribute('aria-label', label);
  }

  function timesOf(route) {
    const fastcgi = route.fastcgi || {};
    return [
      ['Requests', fastcgi.request_time],
      ['Waits for a place', fastcgi.wait_time || route.queue.wait],
      ['Connects', fastcgi.connect_time || route.connect_time],
      ['Until the first byte', fastcgi.first_byte_time],
      ['Settling', fastcgi.settle_time],
    ];
  }

  function plots(list, route) {
    const first = looks[0];
    const before = new Map(looks.length > 1 && routeOf(first, route.name) ? timesOf(routeOf(first, route.name)) : []);
    const time = looks[looks.length - 1].uptime_seconds - first.uptime_seconds;
    const wanted = timesOf(route).filter(([, times]) => times && Array.isArray(times.buckets) && times.count > 0);
    const items = wanted.map(([title, now]) => ({ title, now, before: before.get(title), time }));
    keep(list, items, item => item.title, item => makePlot(item.title), drawPlot);
  }

  // --- routes -----------------------------------------------------------------------------------

  const ENDPOINT_TITLES = [['Endpoint'], ['State'], ['In use'], ['Weight', 'wide'], ['Connects', 'wide'], ['Failed', 'wide'], ['Failed in a row']];

  function endpointState(endpoint) {
    const states = {
      ok: 'ok',
      failing: 'failing for ' + span(endpoint.failing_seconds),
      ejected: 'left out for ' + span(endpoint.left_seconds) + ' more',
      down: 'left out: its checks fail',
      removed: 'not among the addresses any more',
    };
    return named(states, endpoint.state) + (endpoint.drained ? ', drained by hand' : '');
  }

  function endpointRow(row, [endpoint, max]) {
    const isBad = endpoint.state === 'ejected' || endpoint.state === 'down';
    const isOdd = endpoint.state === 'failing' || endpoint.drained || endpoint.state === 'removed';
    dress(row, isBad ? 'error' : isOdd ? 'warn' : '');
    const weight = endpoint.weight + (endpoint.weight_by_hand ? ' by hand' : '');
    fill(row, ENDPOINT_TITLES, [
      endpoint.address,
      endpointState(endpoint),
      endpoint.connections + (max === null ? '' : ' of ' + max),
      weight,
      endpoint.connects,
      endpoint.connect_failures,
      endpoint.failures_in_a_row,
    ]);
  }

  const POOL_TITLES = [['Pool'], ['State'], ['Processes'], ['In its backlog'], ['Max children reached', 'wide'], ['Slow requests', 'wide']];

  function poolState(pool) {
    const age = typeof pool.age_seconds === 'number' ? span(pool.age_seconds) : null;
    const why = pool.error ? ': ' + pool.error : '';
    if (!pool.up) return (age === null ? 'no answer yet' : 'no answer for ' + age) + why;
    return 'answered ' + age + ' ago' + (pool.warning ? '; ' + pool.warning : '');
  }

  // What it last said is left out once it is too old to be told.
  function poolRow(row, pool) {
    const says = typeof pool.total_processes === 'number';
    const names = [pool.address, pool.pool, pool.process_manager].filter(name => name);
    const most = typeof pool.max_children === 'number' ? ' of ' + pool.max_children : '';
    const running = typeof pool.running_processes === 'number' ? ', ' + pool.running_processes + ' run a script' : '';
    dress(row, !pool.up ? 'error' : pool.warning || pool.listen_queue > 0 ? 'warn' : '');
    fill(row, POOL_TITLES, [
      names.join(', '),
      poolState(pool),
      says ? pool.total_processes + most + ', ' + pool.idle_processes + ' idle' + running : '',
      says ? pool.listen_queue + ' of ' + pool.listen_queue_len : '',
      says ? pool.max_children_reached : '',
      says ? pool.slow_requests : '',
    ]);
  }

  function makeRoute() {
    const meter = element('meter');
    meter.min = 0;
    meter.setAttribute('aria-label', 'How full the queue is');
    const parts = {
      title: element('h2', '', element('span'), ' ', element('small')),
      facts: element('dl'),
      queue: element('div', 'queue', meter, element('span')),
      plots: element('div', 'plots'),
      endpoints: table(ENDPOINT_TITLES, 'endpoints'),
      more: element('p', 'note'),
      pools: table(POOL_TITLES, 'pools'),
      poolsTitle: element('h3', '', 'As PHP-FPM says'),
      poolsMore: element('p', 'note'),
    };
    const made = element('section', 'route', parts.title, parts.facts, parts.queue, parts.plots,
      element('div', 'scroll', parts.endpoints), parts.more,
      parts.poolsTitle, element('div', 'scroll', parts.pools), parts.poolsMore);
    made.parts = parts;
    return made;
  }

  function routeFacts(route) {
    const name = route.name;
    const bad = number => (number > 0 ? 'bad' : '');
    const pairs = [];
    const { fastcgi, queue } = route;
    if (fastcgi) {
      const failed = growth(name, it => requestsOf(it)['5xx'] || 0);
      const none = growth(name, it => requestsOf(it).none || 0);
      const own = growth(name, it => sum(answersOf(it)));
      pairs.push(['Requests', rate(growth(name, it => sum(requestsOf(it))))]);
      pairs.push(['Status 5xx', rate(failed), bad(failed)]);
      pairs.push(['Without an answer', rate(none), bad(none)]);
      pairs.push(['Answers of the proxy', rate(own), own > 0 ? 'warned' : '']);
    }
    pairs.push(['Clients', route.sessions_active + ', ' + rate(growth(name, it => it.connections_accepted)) + ' come']);
    if (fastcgi) {
      const { busy, settling, resting } = fastcgi.upstreams;
      pairs.push(['Connections to backends', busy + ' busy, ' + settling + ' settle, ' + resting + ' rest']);
    }
    const refused = growth(name, it => it.connect_failures);
    pairs.push(['Failed connects', rate(refused), bad(refused)]);
    const bytes = direction => growth(name, it => it[direction].copied_bytes + it[direction].spliced_bytes);
    const flow = direction => (bytes(direction) === null ? '-' : size(bytes(direction)) + '/s');
    pairs.push(['To backends', flow('to_backend')], ['To clients', flow('to_client')]);
    if (route.answer_age_seconds !== null) {
      const failing = route.lookups.failing_seconds;
      const value = typeof failing === 'number' ? 'fail for ' + span(failing) : 'confirmed ' + span(route.answer_age_seconds) + ' ago';
      pairs.push(['Names', value, typeof failing === 'number' ? 'bad' : '']);
    }
    pairs.push(['Waited ever', queue.queued]);
    return pairs;
  }

  function drawQueue(box, queue) {
    const [meter, words] = box.children;
    const max = queue.max || 0;
    show(box, max > 0 || queue.depth > 0);
    show(meter, max > 0);
    meter.max = max || 1;
    meter.low = max / 4;
    meter.high = max * 0.75;
    meter.optimum = 0;
    meter.value = queue.depth;
    const first = queue.oldest_wait_seconds === null ? '' : ', the first for ' + span(queue.oldest_wait_seconds);
    say(words, (max > 0 ? queue.depth + ' of ' + max : queue.depth) + ' wait' + first);
    dress(words, max > 0 && queue.depth >= max ? 'bad' : queue.depth > 0 ? 'warned' : '');
  }

  function drawRoute(made, route) {
    const { title, facts: list, queue, plots: plotList, endpoints, more, pools, poolsTitle, poolsMore } = made.parts;
    if (made.dataset.route !== route.name) made.dataset.route = route.name;
    say(title.children[0], route.name);
    say(title.children[1], route.listeners.join(', '));
    facts(list, routeFacts(route));
    drawQueue(queue, route.queue);
    plots(plotList, route);
    const max = route.endpoint_connections_max;
    keep(endpoints.tBodies[0], route.endpoints.map(endpoint => [endpoint, max]), ([endpoint]) => endpoint.address, () => element('tr'), endpointRow);
    show(endpoints, route.endpoints.length > 0);
    show(more, route.endpoints_more > 0);
    say(more, 'and ' + plural(route.endpoints_more, 'endpoint', 'endpoints') + ' more, of which nothing worse is known');
    const told = (route.fastcgi || {}).fpm || [];
    keep(pools.tBodies[0], told, pool => pool.address, () => element('tr'), poolRow);
    show(pools, told.length > 0);
    show(poolsTitle, told.length > 0);
    show(poolsMore, route.pools_more > 0);
    say(poolsMore, 'and ' + plural(route.pools_more, 'pool', 'pools') + ' more, of which nothing worse is known');
  }

  // --- requests and events ----------------------------------------------------------------------

  const REQUEST_TITLES = [['Age'], ['Waited'], ['What it does'], ['Route'], ['Endpoint'], ['Held up'], ['Request']];

  function drawRequest(row, request) {
    const by = request.stalled;
    const held = by ? by.what + ' by the ' + by.by + ' for ' + span(by.seconds) : '';
    const words = [request.method, request.uri, request.script].filter(word => typeof word === 'string');
    const client = typeof request.uid === 'number' ? ' (uid ' + request.uid + ', pid ' + request.pid + ')' : '';
    dress(row, request.age_seconds >= 10 && request.state !== 'relaying' ? 'warn' : '');
    fill(row, REQUEST_TITLES, [
      span(request.age_seconds),
      request.queue_seconds > 0 ? span(request.queue_seconds) : '',
      named(STATES, request.state),
      request.route,
      request.endpoint || '',
      held,
      words.join(' ') + client,
    ]);
  }

  function drawRequests({ requests, details }) {
    const rows = requests ? requests.rows : [];
    const listed = byId('request-table');
    keep(listed.tBodies[0], rows, (_, number) => number, () => element('tr'), drawRequest);
    show(listed, rows.length > 0);
    const notes = [];
    if (!requests) {
      notes.push('What runs was not asked just now, because others do, or workers do not turn.');
    } else {
      const states = requests.states.map(({ state, count }) => count + ' ' + state).join(', ');
      notes.push(rows.length === 0 ? 'Nothing is under way.' : requests.count + ' under way: ' + states + '.');
      if (requests.left_out > 0) notes.push(requests.left_out + ' more were not looked at.');
      if (requests.silent_workers.length > 0) notes.push('Nothing is known of workers ' + requests.silent_workers.join(', ') + '.');
      if (requests.incomplete_workers.length > 0) notes.push('Not all is known of workers ' + requests.incomplete_workers.join(', ') + '.');
    }
    if (!details) notes.push('URIs, scripts and clients are not shown here: the control socket shows them, to root and the daemon\'s user, and this address with --status-details.');
    say(byId('requests-note'), notes.join(' '));
  }

  function drawEvent(item, event) {
    const [time, words] = item.children;
    dress(item, Object.hasOwn(RANKS, event.level) ? event.level : '');
    const at = new Date(event.at_seconds * 1000);
    const iso = Number.isNaN(at.getTime()) ? '' : at.toISOString();
    if (time.dateTime !== iso) time.dateTime = iso;
    say(time, clock(event.at_seconds) + (event.times > 1 ? ' (' + event.times + ' times)' : ''));
    say(words.children[0], event.message);
    say(words.children[1], event.about);
    show(words.children[1], event.about !== '');
  }

  function drawEvents({ events, details }) {
    const make = () => element('li', '', element('time'), element('div', '', element('p'), element('p', 'note')));
    const newest = events.slice().reverse();
    keep(byId('event-list'), newest, event => event.at_seconds + event.message, make, drawEvent);
    const words = events.length === 0 ? 'Nothing.' : '';
    const less = details ? '' : 'Only what happened to endpoints and names is shown here.';
    say(byId('events-note'), (words + ' ' + less).trim());
    show(byId('events-note'), words + less !== '');
  }

  // --- the whole --------------------------------------------------------------------------------

  const ICONS = { error: 'd11', warn: 'e90', note: '28c', fine: '2a4', unknown: '888' };
  let icon = '';

  function colour(level) {
    if (icon === level) return;
    icon = level;
    byId('icon').href = 'data:image/svg+xml,' + encodeURIComponent(
      '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4.5" cy="4.5" r="4" fill="#' + ICONS[level] + '"/></svg>');
  }

  function drawTroubles(figures) {
    const all = figures.troubles.concat(trends());
    all.sort((a, b) => RANKS[b.level] - RANKS[a.level]);
    const items = figures.troubles_more > 0 ? all.concat([{ level: 'note', text: 'and ' + figures.troubles_more + ' more' }]) : all;
    // Times grow: the same trouble keeps its place and its selection.
    const kind = trouble => trouble.level + trouble.text.replace(/[0-9.]+/g, '');
    keep(byId('troubles'), items, kind, () => element('li'), (item, trouble) => {
      dress(item, trouble.level);
      say(item, trouble.text);
    });
    const worst = all.length === 0 ? 'fine' : all[0].level;
    const count = all.filter(trouble => trouble.level !== 'note').length + figures.troubles_more;
    const words = count > 0 ? plural(count, 'thing is wrong', 'things are wrong') + ' now' : 'Nothing is wrong that the daemon knows of';
    say(byId('summary'), words);
    dress(byId('summary'), worst);
    colour(worst);
    document.title = (count > 0 ? '(' + count + ') ' : '') + 'spliceway';
  }

  function drawDaemon(figures) {
    const words = ['version ' + figures.version, figures.engine];
    const draining = figures.state === 'draining' ? 'draining for ' + span(figures.draining_seconds) : 'serving for ' + span(figures.uptime_seconds);
    words.push(draining, figures.sessions_active + ' of ' + figures.sessions_max + ' sessions');
    const busy = growth(null, it => it.busy_seconds);
    const part = busy === null ? '' : ', busy for ' + short(busy / Math.max(1, figures.workers) * 100) + ' %';
    words.push(plural(figures.workers, 'worker', 'workers') + part);
    if (figures.pid !== undefined) words.push('process ' + figures.pid);
    words.push('configuration ' + figures.config.hash);
    for (const [count, what] of [[figures.log_lines_dropped, 'lines of the log are lost'], [figures.access_log_write_errors, 'writes to access logs have failed']]) {
      if (count > 0) words.push(count + ' ' + what);
    }
    for (const route of figures.retired_routes) words.push('route ' + route.name + ' is not served any more, ' + route.sessions_active + ' sessions finish');
    say(byId('daemon'), words.join('; '));
  }

  function draw(figures) {
    drawDaemon(figures);
    drawTroubles(figures);
    keep(byId('route-list'), figures.routes, route => route.name, makeRoute, drawRoute);
    show(byId('routes-more'), figures.routes_more > 0);
    say(byId('routes-more'), 'and ' + plural(figures.routes_more, 'route', 'routes') + ' more, of which nothing worse is known');
    drawRequests(figures);
    drawEvents(figures);
  }

  // --- asking -----------------------------------------------------------------------------------

  // When the daemon last answered, by a clock that nobody sets.
  let answered = null;
  let answeredAt = null;
  let problem = null;
  let timer = null;
  let asking = null;

  function tellStale() {
    // A tab that was hidden for long shows what was so then, until it is answered.
    const isLate = answered !== null && performance.now() - answered > 3 * INTERVAL_MS;
    const isStale = problem !== null || isLate;
    show(byId('stale'), isStale);
    document.documentElement.classList.toggle('is-stale', isStale && answered !== null);
    if (!isStale) return;
    const age = answered === null ? null : Math.round((performance.now() - answered) / 1000);
    const words = age === null ? 'The daemon has not answered yet' : 'The daemon has not answered for ' + span(age) + ': what is below was so at ' + answeredAt.toLocaleTimeString([], { hour12: false });
    say(byId('stale'), words + '. It is asked again and again.' + (problem === null ? '' : ' (' + problem + ')'));
    if (answered === null) dress(byId('summary'), 'unknown');
    colour('unknown');
  }

  async function obtain(signal) {
    const answer = await fetch(FIGURES, { cache: 'no-store', redirect: 'error', signal });
    if (!answer.ok) throw new Error('it says ' + answer.status);
    const figures = await answer.json();
    if (figures.program !== 'spliceway' || figures.page !== 1) throw new Error('it is another version: load this page again');
    return figures;
  }

  function take(figures) {
    [answered, answeredAt, problem] = [performance.now(), new Date(), null];
    note(figures);
    draw(figures);
  }

  async function ask() {
    const control = new AbortController();
    const patience = setTimeout(() => control.abort(), TIMEOUT_MS);
    asking = control;
    const failed = error => {
      problem = control.signal.aborted ? 'no answer within ' + TIMEOUT_MS / 1000 + ' s' : error.message;
    };
    const figures = await obtain(control.signal).catch(failed);
    clearTimeout(patience);
    asking = null;
    plan();
    try {
      if (figures) take(figures);
    } finally {
      tellStale();
    }
  }

  // Nobody looks at a hidden page, so nothing is asked for it.
  function plan() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, INTERVAL_MS);
  }

  document.addEventListener('visibilitychange', () => {
    if (asking !== null) return;
    clearTimeout(timer);
    if (document.hidden) return;
    tellStale();
    ask();
  });
  setInterval(tellStale, 1000);
  ask();
})();
