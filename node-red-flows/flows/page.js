/** What all pages share: a dashboard has one `ui-base` only, so every flow has the same. */
export const PAGE = [
  {
    id: '778e4c3ab02da701',
    type: 'ui-base',
    name: 'Anomaly detection',
    path: '/dashboard',
    appIcon: '',
    includeClientData: true,
    acceptsClientConfig: ['ui-notification', 'ui-control'],
    showPathInSidebar: false,
    headerContent: 'page',
    navigationStyle: 'none',
    titleBarStyle: 'hidden',
    showReconnectNotification: true,
    notificationDisplayTime: 1,
    showDisconnectNotification: true,
    allowInstall: false,
    z: null,
  },
  {
    id: '1ac7ce2cc5e447de',
    type: 'ui-theme',
    name: 'Calm',
    colors: { surface: '#14304f', primary: '#1f6feb', bgPage: '#eef2f6', groupBg: '#ffffff', groupOutline: '#d5dde6' },
    sizes: { density: 'default', pagePadding: '16px', groupGap: '14px', groupBorderRadius: '10px', widgetGap: '10px' },
    z: null,
  },
];
